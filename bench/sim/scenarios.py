"""What may go wrong in a network, each as a course of events that must end right.

A scenario is played on a network at rest. Who is hit is drawn from the seed. When it is over,
everything must come to be so within `SETTLE_S`: each running peer alive to all, each gone one gone
to all, and the same records in every view. Along the way nobody may be held for dead who was never
out of reach, where the scenario says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.sim.checks import CheckFailed, everything_is_so, first_of
from bench.sim.latency import MATRICES
from bench.sim.lines import Weather
from bench.sim.peer import Peer
from bench.sim.world import World
from overlay.membership import Change, Knobs, MemberState

WARM_UP_S = 5.0
SETTLE_S = 90.0
"""Longer than any repair takes: `REPAIR_S` for each hop, `reconnect_interval_s` for each half."""

ABSENCE_S = 3600.0

STAYS_S = 5.0
"""What is so must still be so after this: longer than anybody takes to find out that it is not."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of trouble.

    Attributes:
        what: happens, in a few words.
        play: makes it happen, and takes as long as that takes.
        spares_the_living: nobody who runs may be held for dead meanwhile.
        drift: clocks count so much too fast or too slow at the most.
    """

    what: str
    play: Callable[[World], None]
    spares_the_living: bool = True
    drift: float = Weather().drift


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario ended.

    Attributes:
        settled_s: virtual seconds from the end of the trouble until all was so.
        false_deaths: times that a peer held one for dead that ran and could be reached.
        course: digest of all that happened.
    """

    settled_s: float
    false_deaths: int
    events: int
    course: str


def play(name: str, peers: int, seed: int, matrix: str = "geographic") -> Outcome:
    """Play a scenario to its end.

    Raises:
        CheckFailed: it did not end right; says how to see that again.
    """
    scenario = SCENARIOS[name]
    world = World(
        peers, seed, MATRICES[matrix], knobs=Knobs.lan(), weather=Weather(drift=scenario.drift)
    )
    deaths = _Deaths()
    world.watch.append(deaths.saw)
    world.run(WARM_UP_S)
    scenario.play(world)
    settled_s = _settle(world)
    wrong = first_of(everything_is_so(world))
    if wrong is None and scenario.spares_the_living and deaths.seen:
        wrong = "; ".join(deaths.seen[:3])
    if wrong is not None:
        again = f"python -m bench.sim --peers {peers} --seed {seed} --scenario {name}"
        also = "" if matrix == "geographic" else f" --matrix {matrix}"
        raise CheckFailed(f"{name} with seed {seed}: {wrong}\nsee it again: {again}{also}")
    return Outcome(settled_s, len(deaths.seen), world.events.done, world.events.course())


def _settle(world: World) -> float:
    """Let time pass until all is so and stays so; return the seconds until it was."""
    over = world.now
    while world.now < over + SETTLE_S:
        world.run_until(lambda: first_of(everything_is_so(world)) is None, SETTLE_S)
        settled_s = world.now - over
        world.run(STAYS_S)
        if first_of(everything_is_so(world)) is None:
            return settled_s
    return world.now - over


@dataclass(slots=True)
class _Deaths:
    """Those that were held for dead although they ran and could be reached."""

    seen: list[str] = field(default_factory=list)

    def saw(self, observer: Peer, change: Change, about: Peer) -> None:
        known = observer.life_of(change.peer) == about.life
        if change.state is MemberState.DEAD and about.up and known:
            self.seen.append(f"{observer.id} held {change.peer} for dead, which it is not")


def _some(world: World, share: float) -> list[int]:
    """Return that share of the peers, one at least, in a random order."""
    return world.rng.sample(range(world.size), max(1, round(world.size * share)))


def _publish_some(world: World, among: Sequence[int], count: int, seconds: float) -> None:
    """Have random peers publish records over a time."""
    for number in range(count):
        up = [index for index in among if world.peers[index].up]
        world.publish(world.rng.choice(up), f"instance-{number % 3}")
        world.run(seconds / count)


def _quiet(world: World) -> None:
    _publish_some(world, range(world.size), 20, 10)


def _crash(world: World) -> None:
    victims = _some(world, 0.1)
    for index in victims:
        world.publish(index, "doomed")
    world.run(1)
    for number, index in enumerate(victims):
        if number % 2:
            world.kill(index)
        else:
            world.crash(index)
        world.run(world.rng.expovariate(2))
    _publish_some(world, range(world.size), 10, 5)


def _restart(world: World) -> None:
    victims = _some(world, 0.1)
    for index in victims:
        world.publish(index, "of an earlier life")
        world.run(0.2)
    for index in victims:
        world.crash(index)
        world.run(world.rng.uniform(0, 10))
        world.restart(index)
    world.run(3)
    _publish_some(world, victims, 10, 5)


def _cut(world: World) -> None:
    half = _some(world, 0.5)
    rest = [index for index in range(world.size) if index not in set(half)]
    world.cut(half, 1)
    world.run(15)
    _publish_some(world, half, 5, 5)
    _publish_some(world, rest, 5, 5)
    world.crash(half[0])
    world.run(20)
    world.heal()


def _absence(world: World) -> None:
    """Cut some off for an hour, in which there is news on both sides; one of the rest restarts."""
    away = _some(world, 0.1)
    rest = [index for index in range(world.size) if index not in set(away)]
    world.cut(away, 1)
    for _ in range(6):
        world.run(ABSENCE_S / 6 - 20)
        _publish_some(world, away, 2, 10)
        _publish_some(world, rest, 2, 10)
    world.restart(rest[0])
    world.run(5)
    world.heal()


def _flap(world: World) -> None:
    few = _some(world, 0.1)
    for _ in range(6):
        world.cut(few, 1)
        world.run(world.rng.uniform(0.2, 4))
        _publish_some(world, range(world.size), 2, 0.5)
        world.heal()
        world.run(world.rng.uniform(0.2, 4))


def _slow(world: World) -> None:
    few = _some(world, 0.1)
    for index in few:
        world.falter(index, world.now + 40, run_s=0.5, stop_s=1.0)
    _publish_some(world, range(world.size), 20, 40)


def _loss(world: World) -> None:
    before, world.lines.weather.loss = world.lines.weather.loss, 0.05
    _publish_some(world, range(world.size), 20, 40)
    world.lines.weather.loss = before


def _leave(world: World) -> None:
    for index in _some(world, 0.2):
        world.publish(index, "until the end")
        world.leave(index)
        world.run(world.rng.expovariate(4))


def _storm(world: World) -> None:
    """Everything at once, for a minute."""
    world.lines.weather.loss = 0.1
    down: list[int] = []
    for _ in range(60):
        index = world.rng.randrange(world.size)
        up = world.peers[index].up
        match world.rng.choice(["crash", "restart", "stop", "cut", "publish", "publish"]):
            case "crash" if up and len(down) < world.size // 4:
                world.crash(index)
                down.append(index)
            case "restart" if down:
                world.restart(down.pop(0))
            case "stop" if up:
                world.stop(index, world.rng.expovariate(0.5))
            case "cut":
                world.cut(_some(world, 0.2), 1)
                world.at(world.now + world.rng.uniform(0.5, 8), world.heal)
            case "publish" if up:
                world.publish(index, "instance-0")
        world.run(1)
    world.run(10)
    world.heal()
    world.lines.weather.loss = 0.01


SCENARIOS: dict[str, Scenario] = {
    "quiet": Scenario("nothing, but records are published", _quiet),
    "crash": Scenario("a tenth of the machines go, half of them without a word", _crash),
    "restart": Scenario("a tenth crash, and are started again within 10 s", _restart, False),
    "cut": Scenario("two halves do not reach each other for 45 s", _cut, False),
    "absence": Scenario("a tenth is cut off for an hour", _absence, False),
    "flap": Scenario("a tenth is cut off again and again for some seconds", _flap, False),
    "slow": Scenario("a tenth stop for a second or so, again and again", _slow, False),
    "loss": Scenario("a twentieth of all datagrams is lost", _loss, False),
    "drift": Scenario("clocks count up to 20 % too fast or too slow", _quiet, drift=0.2),
    "leave": Scenario("a fifth say goodbye", _leave),
    "storm": Scenario("crashes, restarts, stops, cuts and loss, all at once", _storm, False),
}
