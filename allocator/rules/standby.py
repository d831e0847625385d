"""Which paused instances are worth their memory, and which go when there is too little. Pure.

A paused instance is a bet: it costs memory now and saves a start later, if it is asked for before
it would be stopped anyway. Its value is what the bet is expected to save for each MiB it holds:

    value = saved start time x probability of being asked again in time / memory

This is the rule of Greedy-Dual-Size-Frequency caches (Cherkasova, HPL-98-69), which FaasCache
(Fuerst and Sharma, ASPLOS 2021) found the best for keeping function instances: frequency x cost /
size. It prefers neither the small nor the slow to start nor the often asked, but what pays most for
a MiB, and so the whole pool saves most. The frequency is that of what is observed, the time between
one request and the next, smoothed; and never less than the silence so far, so that a service that
was asked a thousand times a second and then no more ages like any other. If requests come at random
with that mean gap, the probability that the next comes within the time that is left is
1 - exp(-left / gap); a short time left therefore counts for little.

Among equals the one that rests longest goes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf

from overlay.names import InstanceId

GAP_ALPHA = 0.3
"""Weight of the newest gap: a habit is followed after some three gaps."""

UNKNOWN_GAP_S = 60.0
"""Of what was asked for once; twice the time after which it is paused."""

TYPICAL_START_S = 0.5
"""Of an instance whose start nobody measured, as it was adopted."""


@dataclass(slots=True)
class Habit:
    """How often a service is asked for, here.

    Attributes:
        gap_s: smoothed time between one request and the next; 0 while there was no second one.
        last: when the latest came.
    """

    last: float
    gap_s: float = 0.0

    def asked(self, now: float) -> None:
        """Take in a request."""
        gap_s, self.last = now - self.last, now
        self.gap_s = self.gap_s + GAP_ALPHA * (gap_s - self.gap_s) if self.gap_s else gap_s

    def expected_gap_s(self, now: float) -> float:
        """Return the mean time between requests, as it must be supposed at `now`."""
        return max(self.gap_s or UNKNOWN_GAP_S, now - self.last)


@dataclass(frozen=True, slots=True)
class Resting:
    """A paused instance.

    Attributes:
        since: when it was paused.
        saved_s: what a start takes longer than resuming it.
        gap_s: mean time between requests for its service; over 0.
        left_s: time until it would be stopped anyway.
    """

    id: InstanceId
    since: float
    memory_mib: int
    saved_s: float
    gap_s: float
    left_s: float = inf


def value(resting: Resting) -> float:
    """Return the seconds that keeping the instance is expected to save for each MiB it holds."""
    asked_again = 1 - exp(-max(0.0, resting.left_s) / resting.gap_s)
    return max(0.0, resting.saved_s) * asked_again / max(1, resting.memory_mib)


@dataclass(frozen=True, slots=True)
class Shortage:
    """By how much there is too little of each; nothing is short at 0."""

    memory_mib: int = 0
    instances: int = 0

    def __bool__(self) -> bool:
        """Whether anything is short."""
        return self.memory_mib > 0 or self.instances > 0


def victims(pool: Iterable[Resting], shortage: Shortage) -> list[InstanceId]:
    """Return who must go so that nothing is short, the least valuable first; all if need be.

    Who turns out not to be needed, because a later one gives enough, is spared.
    """
    chosen: list[Resting] = []
    for resting in sorted(pool, key=lambda r: (value(r), r.since, r.id)):
        if not _still_short(chosen, shortage):
            break
        chosen.append(resting)
    for resting in reversed(chosen[:]):
        others = [r for r in chosen if r is not resting]
        if not _still_short(others, shortage):
            chosen = others
    return [r.id for r in chosen]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What paused instances may have of this machine."""

    memory_mib: int
    instances: int

    def excess(self, pool: Iterable[Resting]) -> Shortage:
        """Return by how much a pool is over them."""
        resting = list(pool)
        return Shortage(
            memory_mib=max(0, sum(r.memory_mib for r in resting) - self.memory_mib),
            instances=max(0, len(resting) - self.instances),
        )


def _still_short(chosen: list[Resting], shortage: Shortage) -> bool:
    freed = sum(r.memory_mib for r in chosen)
    return freed < shortage.memory_mib or len(chosen) < shortage.instances
