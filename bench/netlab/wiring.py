"""The interfaces, routes and firewalls of hosts and home routers: what a person would type on them.

A host's `eth0` is a TUN device: the whole network is reached through it, and every packet goes to
the lab's router. A host behind NAT has one end of a veth pair instead, whose other end is on a
*home router*, namespaces with nothing running in them, which has the TUN device and masquerades.
"""

import subprocess
from ipaddress import IPv4Address
from pathlib import Path

from bench.netlab.errors import LabFailed
from bench.netlab.namespaces import Namespaces
from bench.netlab.plan import HostPlan, Nat, Plan

TX_QUEUE_PACKETS = 10_000
"""A TUN device does not hold TCP back, so that a whole window stands in its queue; the default of
500 would drop most of it. This is 1 Gbit/s for 120 ms."""

HOME_NETWORK = "192.168.77"
"""Behind every home router, the same everywhere, as it is in homes."""

_RULES = """*nat
-A POSTROUTING -o eth0 -j MASQUERADE{ports}
COMMIT
*filter
:FORWARD DROP
-A FORWARD -i lan0 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -i eth0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -i eth0 -j DROP
COMMIT
"""
"""Unasked packets are dropped, not refused: a refusal would end a hole punch that is a little
early. What is dropped on INPUT leaves no entry behind that would take the port of a later one."""


def wire_host(inside: Namespaces, plan: HostPlan, prefix: int, mtu: int) -> int:
    """Give a host that is on the network itself its interface; return its device's descriptor."""
    tun = inside.open_tun("eth0")
    _ip(
        inside,
        "link set lo up",
        "link set eth0 addrgenmode none",
        f"link set eth0 mtu {mtu} txqueuelen {TX_QUEUE_PACKETS} up",
        f"address add {plan.address}/{prefix} dev eth0",
        "route add default dev eth0",
    )
    _forward(inside, on=False)
    return tun


def wire_home(inside: Namespaces, home: Namespaces, plan: HostPlan, prefix: int, mtu: int) -> int:
    """Connect a host to its home router and that to the network; return the router's device.

    Raises:
        LabFailed: the kernel or iptables cannot do what it takes.
    """
    tun = wire_host(home, plan, prefix, mtu)
    ends = ["ip", "link", "add", "eth0", "netns", str(inside.pid), "type", "veth"]
    ends += ["peer", "name", "lan0", "netns", str(home.pid)]
    done = subprocess.run(ends, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabFailed(f"no veth pair could be made: {done.stderr.strip()}")
    _ip(home, f"address add {HOME_NETWORK}.1/24 dev lan0", "link set lan0 addrgenmode none")
    _ip(home, f"link set lan0 mtu {mtu} up")
    ports = " --random-fully" if plan.nat is Nat.SYMMETRIC else ""
    home.set_up("iptables-restore", given=_RULES.format(ports=ports))
    _forward(home, on=True)
    _ip(
        inside,
        "link set lo up",
        f"address add {home_address()}/24 dev eth0",
        "link set eth0 addrgenmode none",
        f"link set eth0 mtu {mtu} up",
        f"route add default via {HOME_NETWORK}.1",
    )
    _forward(inside, on=False)
    return tun


def name_hosts(inside: Namespaces, lab: Plan, folder: Path) -> None:
    """Let the hosts of the lab, and no others, be known by name.

    Other names are refused at once: by the name server that a host does not run itself, instead of
    after seconds by one that it cannot reach.
    """
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in lab.hosts)]
    known = {
        "hosts": "".join(f"{line}\n" for line in lines),
        "resolv.conf": "nameserver 127.0.0.1\n",
    }
    for name, text in known.items():
        if (system := Path("/etc") / name).exists():
            (folder / name).write_text(text)
            inside.set_up("mount", "--bind", str(folder / name), str(system))


def home_address() -> str:
    """Return the address that every host behind NAT has at home."""
    return str(IPv4Address(f"{HOME_NETWORK}.2"))


def _ip(inside: Namespaces, *lines: str) -> None:
    inside.set_up("ip", "-batch", "-", given="\n".join(lines))


def _forward(inside: Namespaces, *, on: bool) -> None:
    """Forward packets, or not; without this, namespaces have what this machine has."""

    def write() -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(on)))

    inside.inside(write)
