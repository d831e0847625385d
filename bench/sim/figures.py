"""What is measured in a simulated network."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bench.sim.latency import geographic
from bench.sim.lines import Weather
from bench.sim.peer import Peer
from bench.sim.world import World
from overlay.digest import Key, Stamp
from overlay.membership import Change, Knobs, MemberState

WARM_UP_S = 5.0

SLOW_SHARE = 0.05
SLOW_RUN_S, SLOW_STOP_S = 2.0, 1.0
"""A slow peer runs and stops in turn, for exponential times of these means."""

SLOW_LOSS = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure of a network.

    Attributes:
        quiet_s: virtual seconds in which nothing happens, and bytes are counted.
        publications: records published one after the other.
        crashes: machines that go one after the other.
    """

    quiet_s: float
    publications: int
    crashes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network did.

    Attributes:
        sent: bytes a second that each peer sent while it was quiet; `received` likewise.
        converged: seconds from each publication to each other peer's view.
        missing: views that a publication never came to.
        first: seconds from each crash until the first peer held it for dead; `every` until all did.
        false_deaths: times that a peer held one for dead that was not.
    """

    peers: int
    sent: Sequence[float]
    received: Sequence[float]
    converged: Sequence[float]
    missing: int
    first: Sequence[float]
    every: Sequence[float]
    false_deaths: int


def network(peers: int, seed: int, plan: Plan) -> Measured:
    """Measure a network of so many peers on the geographic matrix, with 1 % loss."""
    with _no_collections():
        world = World(peers, seed, geographic, knobs=Knobs.lan())
        deaths = _Deaths(world)
        world.watch.append(deaths.saw)
        world.run(WARM_UP_S)
        sent, received = _quiet(world, plan.quiet_s)
        converged = _publish(world, plan.publications)
        first, every = _crash(world, deaths, plan.crashes)
    missing = plan.publications * (peers - 1) - len(converged)
    return Measured(peers, sent, received, converged, missing, first, every, deaths.false)


def _quiet(world: World, seconds: float) -> tuple[list[float], list[float]]:
    before = [(peer.sent_bytes, peer.received_bytes) for peer in world.peers]
    world.run(seconds)
    sent = [(p.sent_bytes - s) / seconds for p, (s, _) in zip(world.peers, before, strict=True)]
    got = [(p.received_bytes - r) / seconds for p, (_, r) in zip(world.peers, before, strict=True)]
    return sent, got


def _publish(world: World, count: int) -> list[float]:
    """Return the seconds from each publication to each other peer's view."""
    at: dict[tuple[Key, Stamp], float] = {}
    took: list[float] = []

    def arrived(_observer: Peer, key: Key, stamp: Stamp) -> None:
        took.append(world.now - at[key, stamp])

    world.arrivals.append(arrived)
    for _ in range(count):
        published = world.publish(world.rng.randrange(world.size), "instance-0")
        at[published] = world.now
        world.run(world.rng.uniform(0.1, 0.3))
    world.run_until(lambda: len(took) == count * (world.size - 1), within=30.0)
    world.arrivals.remove(arrived)
    return took


def _crash(world: World, deaths: "_Deaths", count: int) -> tuple[list[float], list[float]]:
    """Return for each crash the seconds until the first and until all held it for dead."""
    at: dict[int, float] = {}
    for index in world.rng.sample(range(world.size), min(count, world.size // 2)):
        at[index] = world.now
        world.crash(index)
        world.run(world.rng.uniform(0.2, 1.0))
    world.run_until(lambda: all(deaths.all_know(index) for index in at), within=60.0)
    seen = [(deaths.of(index), crashed_at) for index, crashed_at in at.items()]
    return [min(s) - c for s, c in seen], [max(s) - c for s, c in seen]


@dataclass(slots=True)
class _Deaths:
    """When who was held for dead, and by whom."""

    world: World
    false: int = 0
    _seen: dict[int, dict[int, float]] = field(default_factory=dict)

    def saw(self, observer: Peer, change: Change, about: Peer) -> None:
        if change.state is MemberState.DEAD and about.up:
            self.false += 1
        elif change.state is MemberState.DEAD:
            self._seen.setdefault(about.index, {}).setdefault(observer.index, self.world.now)

    def of(self, index: int) -> list[float]:
        return [at for by, at in self._seen[index].items() if self.world.peers[by].up]

    def all_know(self, index: int) -> bool:
        seen = self._seen.get(index, {})
        return all(peer.index in seen for peer in self.world.up())


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What was believed wrongly while some peers were slow: cases per peer and hour.

    A case is one peer in one incarnation: it ends with the refutation, however many believed it.

    Attributes:
        suspicions: of peers that are well; `deaths` likewise.
        slow_suspicions: of slow peers, per slow peer and hour; `slow_deaths` likewise.
    """

    suspicions: float
    deaths: float
    slow_suspicions: float
    slow_deaths: float


def mistakes(
    peers: int, seed: int, seconds: float, *, self_doubt: bool, notices_stalls: bool
) -> Mistakes:
    """Count what a network with slow peers and 2 % loss believes wrongly."""
    knobs = Knobs.lan() if self_doubt else replace(Knobs.lan(), max_health=0)
    with _no_collections():
        world = World(
            peers,
            seed,
            geographic,
            knobs=knobs,
            weather=Weather(loss=SLOW_LOSS),
            notices_stalls=notices_stalls,
        )
        world.run(WARM_UP_S)
        slow = world.rng.sample(range(peers), max(1, round(peers * SLOW_SHARE)))
        cases = _Cases()
        world.watch.append(cases.saw)
        for index in slow:
            world.falter(index, world.now + seconds, run_s=SLOW_RUN_S, stop_s=SLOW_STOP_S)
        world.run(seconds)
    well = sorted(set(range(peers)) - set(slow))
    hours = seconds / 3600
    return Mistakes(
        cases.count(MemberState.SUSPECT, well) / hours / len(well),
        cases.count(MemberState.DEAD, well) / hours / len(well),
        cases.count(MemberState.SUSPECT, slow) / hours / len(slow),
        cases.count(MemberState.DEAD, slow) / hours / len(slow),
    )


class _Cases:
    """Who was held for what, in which incarnation: that which the one who held it so knew of."""

    def __init__(self) -> None:
        self._seen: dict[MemberState, set[tuple[int, int]]] = {kind: set() for kind in MemberState}

    def saw(self, observer: Peer, change: Change, about: Peer) -> None:
        for said in observer.membership.digest_updates([change.peer]):
            self._seen[change.state].add((about.index, said.incarnation))

    def count(self, kind: MemberState, among: Sequence[int]) -> int:
        wanted = set(among)
        return sum(index in wanted for index, _ in self._seen[kind])


@contextmanager
def _no_collections() -> Iterator[None]:
    """Have Python not look for cycles: there are few, and millions of objects to look through."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
