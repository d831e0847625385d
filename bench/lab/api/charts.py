"""An experiment over time, in the figures that one watches: rates, latencies, processors. Pure.

Time is cut into intervals, so few that a chart can show them. A request counts where it ended: what
is past does not change any more, and who watches asks only for what is new.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bench.lab.experiments.summary import PERCENTILES, Numbers

MOST_INTERVALS = 120
"""In a chart, unless its reader asks for others."""

MAX_INTERVALS = 5000
"""In one answer."""

_NICE_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600)

_LEAST_FAILURE = 300


@dataclass(frozen=True, slots=True)
class Span:
    """Intervals of an experiment.

    Attributes:
        start: when the experiment began, in seconds since 1970.
        interval: the length of each, in seconds.
        first: the number of the first one that is shown.
        end: seconds from the start to the end of the last one, which may be a shorter one.
        over: whether nothing comes after it: what ended later is counted in the last one.
    """

    start: float
    interval: float
    first: int
    end: float
    over: bool = False

    @property
    def offsets(self) -> Numbers:
        """Return when each begins, in seconds from the start."""
        last = math.ceil(self.end / self.interval - 1e-9)
        numbers = np.arange(self.first, max(self.first, last), dtype=np.float64)
        return np.asarray(numbers * self.interval)

    @property
    def lengths(self) -> Numbers:
        """Return how long each is, in seconds."""
        return np.minimum(self.offsets + self.interval, self.end) - self.offsets

    @property
    def since(self) -> float:
        """Return when the first one begins, in seconds since 1970."""
        return self.start + self.first * self.interval


@dataclass(frozen=True, slots=True)
class Requests:
    """What became of requests in each interval: rates a second, latencies in seconds."""

    answered: Sequence[float]
    failed: Sequence[float]
    latencies: Mapping[str, Sequence[float | None]]


def nice_interval(duration: float) -> float:
    """Return an interval by which `duration` seconds are cut into as many as a chart can show."""
    wanted = duration / MOST_INTERVALS
    return next((nice for nice in _NICE_S if nice >= wanted), math.ceil(wanted / 86400) * 86400)


def span(start: float, now: float, end: float | None, interval: float, since: float) -> Span:
    """Return the intervals from `since` seconds after the start on; of a run the complete ones."""
    first = max(0, math.floor(since / interval + 1e-9))
    most = (first + MAX_INTERVALS) * interval
    if end is None:
        complete = math.floor((now - start) / interval) * interval
        return Span(start, interval, first, min(max(complete, 0.0), most))
    length = max(end - start, 0.0)
    return Span(start, interval, first, min(length, most), over=length <= most)


def requests_in(span: Span, requests: npt.ArrayLike) -> Requests:
    """Return what became of requests, given when each was due, when it ended, and its status."""
    table: Numbers = np.asarray(requests, dtype=np.float64).reshape(-1, 3)
    table = table[table[:, 1] >= span.since]
    created, done, status = table.T
    numbers = np.floor((done - span.start) / span.interval).astype(np.int64) - span.first
    count = len(span.offsets)
    if span.over:
        numbers = np.minimum(numbers, count - 1)
    shown = (numbers >= 0) & (numbers < count)
    answered = shown & (status >= 0) & (status < _LEAST_FAILURE)
    latencies = _percentiles(numbers[answered], (done - created)[answered], count)
    return Requests(
        _rates(numbers[answered], span), _rates(numbers[shown & ~answered], span), latencies
    )


def _rates(numbers: npt.NDArray[np.int64], span: Span) -> list[float]:
    counts = np.bincount(numbers, minlength=len(span.offsets))
    return [float(rate) for rate in counts / span.lengths]


def _percentiles(
    numbers: npt.NDArray[np.int64], latencies: Numbers, count: int
) -> Mapping[str, Sequence[float | None]]:
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(count + 1))
    found = [
        np.percentile(latencies[order[begin:end]], PERCENTILES) if end > begin else None
        for begin, end in pairwise(bounds)
    ]
    return {
        f"p{percentile}": [None if values is None else float(values[i]) for values in found]
        for i, percentile in enumerate(PERCENTILES)
    }


def cpu_in(
    span: Span, readings: Iterable[tuple[float, str, float]]
) -> Mapping[str, Sequence[float | None]]:
    """Return the mean of each node's readings in each interval, given when, of whom, and what."""
    count = len(span.offsets)
    kept: dict[str, list[list[float]]] = {}
    for timestamp, node, value in readings:
        number = math.floor((timestamp - span.start) / span.interval) - span.first
        if 0 <= number < count:
            kept.setdefault(node, [[] for _ in range(count)])[number].append(value)
    return {
        node: [sum(values) / len(values) if values else None for values in intervals]
        for node, intervals in sorted(kept.items())
    }
