"""Student's confidence intervals of the mean of a few independent runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and how far from it the truth may be.

    Attributes:
        mean: of the runs.
        half: half of the interval's width; infinite of one run.
    """

    mean: float
    half: float

    def holds(self, value: float) -> bool:
        """Return whether a value is within it."""
        return abs(value - self.mean) <= self.half

    def text(self, digits: int) -> str:
        """Return `mean ± half`."""
        half = f" ± {self.half:,.{digits}f}" if self.half < float("inf") else ""
        return f"{self.mean:,.{digits}f}{half}"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval that holds the mean that independent normal values come from.

    Args:
        values: one at least.
        confidence: how often such an interval is to hold it.
    """
    if len(values) == 1:
        return Interval(values[0], float("inf"))
    from scipy.special import stdtrit  # noqa: PLC0415  (only who asks for an interval waits for it)

    t = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return Interval(fmean(values), t * stdev(values) / sqrt(len(values)))
