"""The router's mind: which link a packet takes, and which packets are to be handed over by when.

Ports are what hosts are plugged into. From each port to each other leads a path: a `Shaper` and
what it has done so far. Packets on their way wait in one heap by the time they depart; those of one
time keep the order in which they came. A path is cut by itself, or because one of its ends is, and
is whole again only when neither is. What is cut hands nothing over, not even what was under way.

Pure: no descriptors, no clock; the same calls with the same seed give the same packets and times.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from ipaddress import IPv4Address
from itertools import count
from math import inf
from random import Random

from bench.netlab.link import PERFECT, Drop, Link, Shaper

MAX_HELD_BYTES = 256 * 2**20
"""Of all packets under way: 1 Gbit/s for 2 s. More are dropped, as a router without memory does."""

IPV4 = 4
_DESTINATION = slice(16, 20)

COUNTERS = ("packets", "octets", "lost", "overflowed", "cut")
"""Of a path."""


@dataclass(slots=True)
class Path:
    """The way from one port to another, and what became of the packets on it.

    Attributes:
        packets, octets: handed over at the far end.
        lost, overflowed, cut: not handed over, by the reason.
    """

    target: "Port"
    shaper: Shaper
    cut_by_itself: bool = False
    packets: int = 0
    octets: int = 0
    lost: int = 0
    overflowed: int = 0
    cut: int = 0


@dataclass(slots=True)
class Port:
    """What a host is plugged into.

    Attributes:
        plugged: whether there is a host at the moment; a host that is off keeps its port.
        cut: whether its cable is cut, and with it every path from and to it.
        unroutable: packets from it that are for nobody here, among them broadcasts.
    """

    name: str
    plugged: bool = False
    cut: bool = False
    unroutable: int = 0
    paths: dict[str, Path] = field(default_factory=dict, repr=False)


class Switch:
    """Ports and the paths between them.

    Args:
        seed: of all random numbers; each path has its own generator of it.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._by_address: dict[bytes, Port] = {}
        self._under_way: list[tuple[float, int, Path, bytes]] = []
        self._held_bytes = 0
        self._numbers = count()
        self.ports: dict[str, Port] = {}

    def add(self, name: str, addresses: Iterable[str]) -> Port:
        """Return the port `name`, made with a perfect path from and to each other port if new."""
        port = self.ports.get(name)
        if port is None:
            port = Port(name)
            for other in self.ports.values():
                port.paths[other.name] = self._path(port, other)
                other.paths[name] = self._path(other, port)
            self.ports[name] = port
        self._by_address = {a: p for a, p in self._by_address.items() if p is not port}
        self._by_address |= {IPv4Address(address).packed: port for address in addresses}
        return port

    def set(self, source: str, target: str, link: Link) -> None:
        """Give the path from `source` to `target` the properties of `link`.

        Raises:
            KeyError: there is no such path.
        """
        self.ports[source].paths[target].shaper.set(link)

    def cut_path(self, source: str, target: str, *, cut: bool) -> None:
        """Cut the path from `source` to `target`, or mend it.

        Raises:
            KeyError: there is no such path.
        """
        port = self.ports[source]
        port.paths[target].cut_by_itself = cut
        _apply_cuts(port, target)

    def cut_port(self, name: str, *, cut: bool) -> None:
        """Cut the cable of the port `name`, or mend it; paths that were cut by themselves stay cut.

        Raises:
            KeyError: there is no such port.
        """
        port = self.ports[name]
        port.cut = cut
        for other in port.paths:
            _apply_cuts(port, other)
            _apply_cuts(self.ports[other], name)

    def arrive(self, source: Port, packet: bytes, now: float) -> None:
        """Take a packet from the host at `source`."""
        target = self._by_address.get(packet[_DESTINATION])
        if target is None or target is source or packet[0] >> 4 != IPV4:
            source.unroutable += 1
            return
        path, size = source.paths[target.name], len(packet)
        if self._held_bytes + size > MAX_HELD_BYTES:
            path.overflowed += 1
            return
        departs = path.shaper.send(size, now)
        if isinstance(departs, Drop):
            _count(path, departs)
            return
        self._held_bytes += size
        heappush(self._under_way, (departs, next(self._numbers), path, packet))

    def due(self, now: float) -> Iterator[tuple[Port, bytes]]:
        """Yield the packets that have departed by `now`, in that order, with the ports to hand to.

        A packet counts as handed over when it is yielded.
        """
        heap = self._under_way
        while heap and heap[0][0] <= now:
            _, _, path, packet = heappop(heap)
            size = len(packet)
            self._held_bytes -= size
            if path.shaper.cut or not path.target.plugged:
                path.cut += 1
                continue
            path.packets += 1
            path.octets += size
            yield path.target, packet

    def next_departure(self) -> float:
        """Return when the next packet departs; infinity if none is under way."""
        return self._under_way[0][0] if self._under_way else inf

    def under_way(self) -> int:
        """Return how many packets are on their way."""
        return len(self._under_way)

    def _path(self, source: Port, target: Port) -> Path:
        rng = Random(f"{self._seed}:{source.name}:{target.name}")  # noqa: S311  (not a secret)
        return Path(target, Shaper(PERFECT, rng))


def _apply_cuts(port: Port, target: str) -> None:
    path = port.paths[target]
    path.shaper.cut = path.cut_by_itself or port.cut or path.target.cut


def _count(path: Path, drop: Drop) -> None:
    match drop:
        case Drop.CUT:
            path.cut += 1
        case Drop.LOST:
            path.lost += 1
        case Drop.OVERFLOWED:
            path.overflowed += 1
