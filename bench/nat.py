"""How fast two peers behind routers that translate addresses reach each other, and how well.

Two namespaces behind a router each, and one that both can dial, on a bridge; the kernel masquerades
and drops what nobody asked for. One peer in each, in three ways:

- `direct`: from behind a router to the one that can be dialled; what the others are measured by.
- `relayed`: to the other hidden one, through a relay in the one that can be dialled.
- `punched`: to the other hidden one after a hole was punched, over a relay.

No delay on the links. The three peers share this machine's processor, so that MB/s through the
relay are what it has left for three.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.command import Report, run
from bench.errors import NetworkFailed
from bench.netlab.lab import need_root
from bench.stats import quantile, spread, table

WAYS = ("direct", "relayed", "punched")
ROUNDS, ROUNDS_QUICK = 5, 1
MEGABYTES, MEGABYTES_QUICK = 200, 50
CALL_TIMEOUT_S = 120.0

_PUBLIC = "203.0.113"
_RULES = """*nat
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
-A INPUT -i wan -j DROP
COMMIT
"""


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NetworkFailed: it could not be measured.
    """
    need_root()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with _ground() as ground:
        for _ in range(ROUNDS_QUICK if quick else ROUNDS):
            for way in WAYS:
                found[way].append(ground.call(way, MEGABYTES_QUICK if quick else MEGABYTES))
    return _report(found)


@dataclass(frozen=True, slots=True)
class _Ground:
    """Namespaces named `{prefix}-cloud`, `-home1`, `-home2` and what stands between them."""

    prefix: str

    def call(self, way: str, megabytes: int) -> dict[str, Any]:
        """Return what the caller measured in one way; every peer is started for it."""
        with self._peer("relay", "cloud", 1, way, megabytes) as relay:
            _await_port(self._inside("cloud"), relay)
            with self._peer("hidden", "home2", 12, way, megabytes) as hidden:
                if hidden.stdout is None or hidden.stdout.readline() != "reserved\n":
                    raise NetworkFailed("the hidden peer got no reservation")
                with self._peer("caller", "home1", 11, way, megabytes) as caller:
                    try:
                        printed, said = caller.communicate(timeout=CALL_TIMEOUT_S)
                    except subprocess.TimeoutExpired as exc:
                        raise NetworkFailed(f"{way}: no answer in time") from exc
        if caller.returncode:
            raise NetworkFailed(f"{way}: the caller failed:\n{said}")
        return dict(json.loads(printed))

    @contextmanager
    def _peer(
        self, role: str, where: str, number: int, way: str, megabytes: int
    ) -> Iterator["subprocess.Popen[str]"]:
        command = [*self._inside(where), sys.executable, "-m", "bench.nat_peer", role]
        command += [f"{_PUBLIC}.1", f"{_PUBLIC}.{number}", way, str(megabytes)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _inside(self, where: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.prefix}-{where}"]


@contextmanager
def _ground() -> Iterator[_Ground]:
    """Make the namespaces; they are gone at the end."""
    prefix = f"mxnat{os.getpid()}"
    try:
        _ip(f"netns add {prefix}-switch", f"-n {prefix}-switch link add bridge0 type bridge")
        _ip(f"-n {prefix}-switch link set bridge0 up")
        _plug(prefix, "cloud", "eth0", 1)
        for number in (1, 2):
            _make_home(prefix, number)
        yield _Ground(prefix)
    finally:
        for where in ("switch", "cloud", "router1", "router2", "home1", "home2"):
            subprocess.run(
                ["ip", "netns", "delete", f"{prefix}-{where}"], check=False, capture_output=True
            )


def _make_home(prefix: str, number: int) -> None:
    """Make a router on the bridge with a network of its own behind it, and a host there."""
    router, home, inside = f"{prefix}-router{number}", f"{prefix}-home{number}", "192.168.77"
    _plug(prefix, f"router{number}", "wan", 10 + number)
    _ip(
        f"netns add {home}",
        f"-n {home} link add eth0 type veth peer name lan netns {router}",
        f"-n {home} addr add {inside}.2/24 dev eth0",
        f"-n {home} link set eth0 up",
        f"-n {home} link set lo up",
        f"-n {router} addr add {inside}.1/24 dev lan",
        f"-n {router} link set lan up",
        f"-n {home} route add default via {inside}.1",
    )
    enter = ["ip", "netns", "exec", router]
    _do([*enter, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    _do([*enter, "iptables-restore"], given=_RULES)


def _plug(prefix: str, where: str, interface: str, number: int) -> None:
    """Make a namespace with an interface on the bridge."""
    name, port = f"{prefix}-{where}", f"port{number}"
    _ip(
        f"netns add {name}",
        f"-n {name} link add {interface} type veth peer name {port} netns {prefix}-switch",
        f"-n {prefix}-switch link set {port} master bridge0 up",
        f"-n {name} addr add {_PUBLIC}.{number}/24 dev {interface}",
        f"-n {name} link set {interface} up",
        f"-n {name} link set lo up",
    )


def _ip(*lines: str) -> None:
    for line in lines:
        _do(["ip", *line.split()])


def _do(command: list[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    if done.returncode:
        raise NetworkFailed(f"{' '.join(command)}: {done.stderr.strip()}")


def _await_port(enter: list[str], relay: "subprocess.Popen[str]") -> None:
    """Return when the relay listens."""
    probe = "import socket,sys,time\n"
    probe += "for _ in range(400):\n"
    probe += f" if not socket.socket().connect_ex(('{_PUBLIC}.1', 4001)): sys.exit()\n"
    probe += " time.sleep(0.05)\n"
    probe += "sys.exit('it does not listen')"
    _do([*enter, sys.executable, "-c", probe])
    if relay.poll() is not None:
        raise NetworkFailed("the relay ended")


def _report(found: dict[str, list[dict[str, Any]]]) -> Report:
    figures: dict[str, float] = {}
    rows = []
    for way, rounds in found.items():
        echoes = [taken for each in rounds for taken in each["echo_s"]]
        connects = spread([each["connect_s"] * 1000 for each in rounds])
        rates = spread([each["bytes_per_s"] / 1e6 for each in rounds])
        p50, p99 = (quantile(echoes, p) * 1000 for p in (0.5, 0.99))
        figures[f"{way}_connect_ms"] = connects.median
        figures[f"{way}_echo_p50_ms"] = p50
        figures[f"{way}_echo_p99_ms"] = p99
        figures[f"{way}_mb_per_s"] = rates.median
        cells = [connects.text(0), f"{p50:.2f}", f"{p99:.2f}", rates.text(0)]
        rows.append([way, *cells])
    columns = ["way", "connect, ms", "echo p50, ms", "echo p99, ms", "MB/s"]
    return Report(figures, table(columns, rows))


if __name__ == "__main__":
    run("nat", __doc__.splitlines()[0], measure)
