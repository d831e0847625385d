"""Which of a machine's addresses other machines can use, and which machine this is.

Loopback and link-local addresses mean another machine to everybody else, and so do the addresses
of container bridges: every Docker host owns 172.17.0.1. None of them is ever advertised, unless the
machine has nothing else: then its peers are on the machine itself.
"""

import hashlib
import ipaddress
import socket
from pathlib import Path

import ifaddr

_SYS_NET = Path("/sys/class/net")


def advertised_hosts(listen_host: str) -> list[str]:
    """Return the addresses to advertise for a listener on `listen_host` (empty: all)."""
    try:
        listened = ipaddress.ip_address(listen_host or "0.0.0.0")  # noqa: S104
    except ValueError:  # a name
        return [listen_host]
    if not listened.is_unspecified:
        return [listen_host]
    usable = [
        str(ip)
        for interface, ip in _interface_addresses()
        if ip.version == listened.version
        and not (ip.is_loopback or ip.is_link_local or (_SYS_NET / interface / "bridge").exists())
    ]
    return usable or ["127.0.0.1" if listened.version == 4 else "::1"]  # noqa: PLR2004


def to_multiaddr(host: str, port: int) -> str:
    """Return the multiaddr of a TCP port on an IP address or DNS name."""
    try:
        family = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        family = "dns"
    return f"/{family}/{host}/tcp/{port}"


def host_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def machine_id() -> str:
    """Return what all processes that share this network stack agree on, and no other machine has.

    It joins the kernel's boot id with the network namespace, so that two namespaces of one kernel
    are two machines, which is what they are to a packet.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return hashlib.sha256(f"{boot}/{namespace}".encode()).hexdigest()[:32]


def system_hostname() -> str:
    """Return the machine's name as the system has it."""
    return socket.gethostname()


def _interface_addresses() -> list[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    return [
        (adapter.name, ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]))
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]
