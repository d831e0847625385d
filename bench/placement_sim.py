"""Where services are placed in a simulated network, and how much nearer they could have been.

Machines and callers stand in the cities of `bench.sim`'s geographic matrix, on machines of their
own, so that every caller has a way to go. A caller ranks the machines with the proxy's own core, by
RTTs that it measured or that it estimates from coordinates, and by what each machine said of its
room a moment ago; then it asks in that order, and the machine has the last word. The figure is the
true RTT of the machine that took the instance ÷ that of the nearest machine that had room.

With load, instances come and go so that most of the room is taken, and half of the callers are in
a tenth of the places, whose neighbourhoods are full.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from random import Random

from bench.sim.latency import Latency, geographic
from overlay.coordinates import Coordinates, guess
from overlay.membership import Knobs, MemberState
from overlay.names import PeerId
from overlay.records import PeerRecord, Role, Room, Version
from overlay.rtt import with_sample
from overlay.spec import ServiceSpec
from overlay.view import RTT_FRESH_S, Distance, PeerView
from proxy.choosing.starting import MAX_ALLOCATORS_ASKED
from proxy.ranking.limits import RttLimits
from proxy.ranking.placement import rank

SLOTS = 8
"""Instances that a machine has room for."""

FILL = 0.8
"""Of all room, so much is taken with load, on average."""

HOT_SHARE, HOT_CALLERS = 0.1, 0.5
"""A tenth of the callers makes half of the requests."""

NEWS_S = 0.25
"""How old is what a caller knows of a machine's room: until it is told, and until it is heard."""

LIFE_S = 60.0
PROBES = 8
"""Samples in a measured RTT."""

_MILLICORES = 250
_SPEC = ServiceSpec(process="serve", cpu_millicores=_MILLICORES, memory_mib=64)


@dataclass(frozen=True, slots=True)
class Size:
    """How large the simulation is.

    Attributes:
        samples: RTTs that each peer measured before its estimates are used.
        requests: for each row of the table.
    """

    machines: int
    callers: int
    samples: int
    requests: int


FULL = Size(machines=400, callers=100, samples=300, requests=2000)
QUICK = Size(machines=200, callers=50, samples=150, requests=500)


@dataclass(slots=True)
class Placed:
    """What became of the requests of one row.

    Attributes:
        ratios: RTT of the chosen machine ÷ RTT of the best feasible one.
        asked: machines that were asked for each instance.
        nowhere: requests for which no machine was found though one had room.
    """

    ratios: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    nowhere: int = 0


class Network:
    """Machines and callers, and what each caller believes of its RTTs.

    Args:
        size: of it.
        rng: of everything that is drawn.
    """

    def __init__(self, size: Size, rng: Random) -> None:
        self.size = size
        peers = size.machines + size.callers
        self._latency: Latency = geographic(peers, rng)
        self._rng = rng
        self._coordinates = self._trained(peers)
        self._records = [_record(free) for free in range(SLOTS + 1)]
        self._measured: dict[tuple[int, int], Distance] = {}

    def rtt_s(self, caller: int, machine: int) -> float:
        """Return the true RTT."""
        return self._latency.rtt(self.size.machines + caller, machine)

    def measured(self, caller: int, machine: int) -> Distance:
        """Return what the caller measured; the same each time."""
        found = self._measured.get((caller, machine))
        if found is None:
            found = self._measured[caller, machine] = self._probed(caller, machine)
        return found

    def estimated(self, caller: int, machine: int) -> Distance:
        """Return what the caller makes of the two coordinates."""
        mine, theirs = self._coordinates[self.size.machines + caller], self._coordinates[machine]
        found = guess(mine.mine, theirs.mine)
        return Distance(found.rtt_s, found.error_s, measured=False)

    def known(self, caller: int, machine: int) -> Distance:
        """Return what a daemon has: what it measured lately, else an estimate.

        It probes one daemon after the other, of which each machine has two and a caller one.
        """
        daemons = 2 * self.size.machines + self.size.callers
        share = RTT_FRESH_S / Knobs.lan().probe_interval_s / daemons
        is_fresh = Random(f"{caller}/{machine}").random() < share  # noqa: S311
        return (self.measured if is_fresh else self.estimated)(caller, machine)

    def view(self, machine: int, free: int, distance: Distance) -> PeerView:
        """Return a machine as a caller sees it."""
        peer = PeerId(f"machine-{machine}")
        return PeerView(peer, self._records[free], MemberState.ALIVE, distance, local=False)

    def _probed(self, caller: int, machine: int) -> Distance:
        one, estimate = self.size.machines + caller, None
        for _ in range(PROBES):
            way = self._latency.way
            sample = way(one, machine, self._rng) + way(machine, one, self._rng)
            estimate = with_sample(estimate, sample)
        assert estimate is not None  # noqa: S101  (for the type checker: there was a sample)
        return Distance(estimate.smoothed_rtt, estimate.rtt_variation, measured=True)

    def _trained(self, peers: int) -> list[Coordinates]:
        """Return everybody's coordinates after they have measured each other at random."""
        everybody = [Coordinates(self._rng) for _ in range(peers)]
        for _ in range(self.size.samples):
            for index, one in enumerate(everybody):
                other = self._rng.randrange(peers)
                if other != index:
                    way = self._latency.way
                    rtt_s = way(index, other, self._rng) + way(other, index, self._rng)
                    one.observe(PeerId(f"peer-{other}"), everybody[other].mine, rtt_s)
        return everybody


class Machines:
    """Who has how much room, now and as far as others have heard."""

    def __init__(self, count: int) -> None:
        self.free = [SLOTS] * count
        self.heard = [SLOTS] * count
        self._news: deque[tuple[float, int, int]] = deque()
        self._ends: list[tuple[float, int]] = []

    def advance(self, now: float) -> None:
        """Let instances end and news arrive until `now`."""
        while self._ends and self._ends[0][0] <= now:
            at, machine = heappop(self._ends)
            self._changed(machine, 1, at)
        while self._news and self._news[0][0] <= now:
            _, machine, free = self._news.popleft()
            self.heard[machine] = free

    def take(self, machine: int, now: float, ends: float) -> bool:
        """Have a machine take an instance until `ends`; False if it has no room."""
        if not self.free[machine]:
            return False
        self._changed(machine, -1, now)
        heappush(self._ends, (ends, machine))
        return True

    def _changed(self, machine: int, by: int, now: float) -> None:
        self.free[machine] += by
        self._news.append((now + NEWS_S, machine, self.free[machine]))


Knows = Callable[[int, int], Distance]


def placed(network: Network, knows: Knows, *, load: bool, rng: Random) -> Placed:
    """Return where instances are placed by callers that know RTTs by `knows`."""
    machines = Machines(network.size.machines)
    found = Placed()
    for caller, now, measured in _requests(network.size, load=load, rng=rng):
        machines.advance(now)
        best = _best(network, machines, caller)
        if best is None:
            continue
        if not measured:  # how the room was taken is no part of what is measured
            machines.take(best, now, now + rng.expovariate(1 / LIFE_S))
            continue
        chosen, asked = _place(network, knows, machines, caller, now, rng)
        found.asked.append(asked)
        if chosen is None:
            found.nowhere += 1
        else:
            found.ratios.append(network.rtt_s(caller, chosen) / network.rtt_s(caller, best))
    return found


def _best(network: Network, machines: Machines, caller: int) -> int | None:
    """Return the nearest machine that has room now."""
    there = (machine for machine, free in enumerate(machines.free) if free)
    return min(there, key=partial(network.rtt_s, caller), default=None)


def _requests(size: Size, *, load: bool, rng: Random) -> Iterator[tuple[int, float, bool]]:
    """Yield who asks and when, and whether it counts: not while the network fills.

    Without load each request meets empty machines.
    """
    if not load:
        for number in range(size.requests):
            yield number % size.callers, number * LIFE_S * 100, True
        return
    rate = FILL * SLOTS * size.machines / LIFE_S
    now, filled = 0.0, 3 * LIFE_S
    hot = max(1, round(HOT_SHARE * size.callers))
    counted = 0
    while counted < size.requests:
        now += rng.expovariate(rate)
        among = hot if rng.random() < HOT_CALLERS else size.callers
        counted += now > filled
        yield rng.randrange(among), now, now > filled


def _place(
    network: Network,
    knows: Knows,
    machines: Machines,
    caller: int,
    now: float,
    rng: Random,
) -> tuple[int | None, int]:
    """Return the machine that took an instance, and how many were asked."""
    views = [network.view(m, free, knows(caller, m)) for m, free in enumerate(machines.heard)]
    ranking = rank(views, _SPEC, RttLimits(), {})
    asked = ranking.sites[:MAX_ALLOCATORS_ASKED]
    for count, site in enumerate(asked, 1):
        machine = int(site.allocator.peer_id.rpartition("-")[2])
        if machines.take(machine, now, now + rng.expovariate(1 / LIFE_S)):
            return machine, count
    return None, len(asked)


def _record(free: int) -> PeerRecord:
    return PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host="machine",
        room=Room(cpu_millicores=free * _MILLICORES, memory_mib=free * 64, instances=free),
        runtimes=("process",),
        platform="linux/amd64",
    )
