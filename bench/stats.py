"""Quantiles, medians with their spread, shares, and tables.

A quantile is the nearest rank: a value that was really measured, never one between two. Of n
samples the p-quantile is the ceil(p x n)-th smallest; the 0.99-quantile of 50 is the largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


def quantile(samples: Sequence[float], p: float) -> float:
    """Return the nearest-rank `p`-quantile, `p` above 0 and at most 1.

    Raises:
        ValueError: there are no samples, or `p` is out of range.
    """
    if not samples or not 0 < p <= 1:
        raise ValueError(f"no {p}-quantile of {len(samples)} samples")
    return sorted(samples)[ceil(p * len(samples) - 1e-9) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the range that it was found in."""

    median: float
    least: float
    most: float

    def text(self, digits: int) -> str:
        """Return `median (least–most)`."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return median, minimum and maximum of `values`.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    return Spread(median(values), min(values), max(values))


def share_deviation(counts: Sequence[int]) -> float:
    """Return how far the share that is farthest from a fair one is from it, relative to that."""
    fair = sum(counts) / len(counts)
    return max(abs(count - fair) for count in counts) / fair


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that also reads well as plain text; all but the first align right."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in [cells[0], rule, *cells[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        text.rjust(width) if i else text.ljust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return " | ".join([f"| {first}", *others]) + " |"
