"""Which instances are left alone because of how they answered: outlier ejection.

An instance that answers `eject_after` requests in a row with a failure (a 5xx, or none at all) is
*ejected*: it gets no request while another can answer. It comes back after a while, which doubles
with each ejection and is forgotten again in calm times; what it does then decides anew. Of many
instances one that fails often but not in a row is found by comparing: its share of good answers in
a period is far below that of all (mean less 1.9 standard deviations).

Both are Envoy's, with its numbers where there is no reason for others. Two things bound what a
mistake can do: never more than half of a service's instances are ejected and never the last one,
since failures that all have come from the requests, or from what is behind the instances; and where
nothing else can answer, an ejected instance does.

Pure: outcomes and `now` in, in trio's seconds.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import floor
from statistics import fmean, pstdev
from typing import TypeVar

MAX_SHARE = 0.5
"""Of a service's instances. Envoy's default is a tenth, of clusters of hundreds; of two instances
one must be one that can be left alone."""

BASE_S = 10.0
"""The first ejection. A program that is restarted, or a cache that is filled, is back by then; one
that fails for good costs `eject_after` requests each time."""

MAX_S = 300.0

LEAST_INSTANCES = 5
"""To be compared: of fewer, one cannot be 1.9 standard deviations away from the mean."""

LEAST_ANSWERS = 100
"""Of each, in a period, to be compared."""

DEVIATIONS = 1.9

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(slots=True)
class Outcomes:
    """How one instance answered.

    Attributes:
        row: failures since the last good answer.
        good: good answers in this period.
        bad: the others.
        times: ejections that are not forgotten yet.
        until: the end of the last one.
    """

    row: int = 0
    good: int = 0
    bad: int = 0
    times: int = 0
    until: float = 0.0

    def ejected(self, now: float) -> bool:
        """Whether it is left alone."""
        return self.until > now

    def failed(self) -> None:
        """Take in a failure."""
        self.row += 1
        self.bad += 1

    def succeeded(self) -> None:
        """Take in a good answer."""
        self.row = 0
        self.good += 1

    def eject(self, now: float) -> None:
        """Leave it alone from now on, for longer than the last time if that is not long ago."""
        if self.times:
            self.times = max(0, self.times - int((now - self.until) // BASE_S))
        self.until = now + term_s(self.times)
        self.times += 1
        self.row = 0

    def begin_period(self) -> None:
        """Count for comparison anew."""
        self.good = self.bad = 0


def term_s(times: int) -> float:
    """Return how long an ejection lasts after so many others."""
    return float(min(MAX_S, BASE_S * 2 ** min(times, 16)))


def may_eject(instances: int, ejected: int) -> bool:
    """Return whether one more of a service's instances may be ejected."""
    most = min(instances - 1, max(1, floor(instances * MAX_SHARE)))
    return ejected < most


def outlying(counts: Mapping[_Key, tuple[int, int]]) -> list[_Key]:
    """Return whose share of good answers is far below the others', the worst first.

    Args:
        counts: the good and the bad answers of each of a service's instances in a period.
    """
    shares = {k: g / (g + b) for k, (g, b) in counts.items() if g + b >= LEAST_ANSWERS}
    if len(shares) < LEAST_INSTANCES:
        return []
    least = fmean(shares.values()) - DEVIATIONS * pstdev(shares.values())
    return sorted((k for k, share in shares.items() if share < least), key=shares.__getitem__)
