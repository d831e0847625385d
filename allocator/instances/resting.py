"""When an instance rests: paused after a while without requests, stopped after a longer one. Pure.

An instance that nobody asks for costs memory, a paused one no more than that, a stopped one
nothing; and what is gone costs a start when it is asked for again. So it is paused first, after
`idle_pause_s` without a request, and stopped after `idle_stop_s`, both counted from the last one.
What the network keeps (`min_instances`) is never stopped here, and paused only if the spec says so.

Where several instances of a service run, those that the load does not need rest before they are
idle: requests are spread over all of them, so that none ever would be. What the load needs is its
peak over the last `idle_pause_s` seconds at least, and not the load of the moment; so an instance
rests at most once in that time, and a load that comes and goes faster moves nothing at all. A fifth
of the others' capacity stays spare (none of a capacity under five): a load that just fits would
have the instance back at once. Kubernetes' autoscaler steadies itself in the same way, by the
highest wish within a window.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from allocator.instances.lifecycle import State
from overlay.names import InstanceId

SPARE = 5
"""One part in so many of the remaining instances' capacity is not counted on."""


class Kept(StrEnum):
    """How the network keeps an instance, if it does."""

    NOT = "not"
    RUNNING = "running"
    PAUSED = "paused"


class Why(StrEnum):
    """Why an instance is put away; the metric's label."""

    IDLE = "idle"
    SURPLUS = "surplus"
    ROOM_NEEDED = "room_needed"
    PREEMPTED = "preempted"
    STANDBY_FULL = "standby_full"
    OUTDATED = "outdated"
    TOO_MANY = "too_many"
    UNHEALTHY = "unhealthy"
    ALLOCATOR_STOPS = "allocator_stops"


@dataclass(frozen=True, slots=True)
class Standing:
    """One instance at the moment at which it is decided on.

    Attributes:
        state: ready or paused.
        wanted: somebody waits for it.
        load: requests in flight.
        idle_since: when the last request ended.
        surplus: the load does not need it.
        pausable_at: when it may be paused at the earliest; it may never be at infinity.
        unwanted: why it must go; empty if it need not.
    """

    state: State
    wanted: bool
    load: int
    idle_since: float
    idle_pause_s: float
    idle_stop_s: float
    surplus: bool = False
    kept: Kept = Kept.NOT
    pausable_at: float = 0.0
    unwanted: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before `until`, unless something changes."""

    until: float = inf


@dataclass(frozen=True, slots=True)
class Pause:
    """The instance shall rest, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The instance shall be ready again: somebody waits for it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The instance shall go, and why."""

    why: str


Step = Wait | Pause | Resume | Stop


def next_step(standing: Standing, now: float) -> Step:
    """Return what is to be done with an instance at `now`."""
    if standing.unwanted:
        return Stop(standing.unwanted)
    if standing.state is State.PAUSED:
        return _of_paused(standing, now)
    return _of_ready(standing, now)


def _of_paused(standing: Standing, now: float) -> Step:
    if standing.wanted:
        return Resume()
    stop_at = _stop_at(standing)
    return Stop(Why.IDLE) if now >= stop_at else Wait(stop_at)


def _of_ready(standing: Standing, now: float) -> Step:
    if standing.surplus and standing.kept is not Kept.RUNNING:
        if not _ever_pausable(standing) and standing.kept is Kept.NOT:
            return Stop(Why.SURPLUS)
        if _ever_pausable(standing) and now >= standing.pausable_at:
            return Pause(Why.SURPLUS)
    pause_at, stop_at = _pause_at(standing), _stop_at(standing)
    if standing.load:
        return Wait()
    if now >= stop_at:
        return Stop(Why.IDLE)
    if now >= pause_at:
        return Pause(Why.IDLE)
    return Wait(min(pause_at, stop_at))


def _ever_pausable(standing: Standing) -> bool:
    return standing.idle_pause_s > 0 and standing.pausable_at < inf


def _pause_at(standing: Standing) -> float:
    if not _ever_pausable(standing) or standing.kept is Kept.RUNNING:
        return inf
    return max(standing.idle_since + standing.idle_pause_s, standing.pausable_at)


def _stop_at(standing: Standing) -> float:
    return inf if standing.kept is not Kept.NOT else standing.idle_since + standing.idle_stop_s


@dataclass(slots=True)
class Peak:
    """The highest load of one or two windows back: two numbers, whatever the load does.

    Attributes:
        window_s: what is older than two of it is forgotten, what is younger than one never.
        load: right now.
    """

    window_s: float
    since: float
    load: int = 0
    _now: int = 0
    _before: int = 0

    def set(self, load: int, now: float) -> None:
        """Take in that the load is another one."""
        self._roll(now)
        self.load = load
        self._now = max(self._now, load)

    def needed(self, load: int, now: float) -> None:
        """Take in that so much was asked for, whether it was served or not."""
        self._roll(now)
        self._now = max(self._now, load)

    def over(self, now: float) -> int:
        """Return the peak."""
        self._roll(now)
        return max(self._now, self._before)

    def _roll(self, now: float) -> None:
        windows = int((now - self.since) // self.window_s)
        if windows < 1:
            return
        self._before = self._now if windows == 1 else self.load
        self._now = self.load
        self.since += windows * self.window_s


@dataclass(frozen=True, slots=True)
class Sibling:
    """A ready instance among others of its revision."""

    id: InstanceId
    load: int
    started: float
    kept: Kept = Kept.NOT


def surplus(siblings: Iterable[Sibling], concurrency: int, peak: int) -> InstanceId | None:
    """Return the instance that the peak does not need, if there is one.

    It is the least busy, and the youngest of those, so that the same ones stay.
    """
    found = list(siblings)
    capacity = (len(found) - 1) * concurrency
    if len(found) < 2 or peak > capacity - capacity // SPARE:  # noqa: PLR2004
        return None
    may_rest = [r for r in found if r.kept is not Kept.RUNNING]
    least = min(may_rest, key=lambda r: (r.load, -r.started, r.id), default=None)
    return None if least is None else least.id
