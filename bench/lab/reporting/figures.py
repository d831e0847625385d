"""What runs say of a variant: means over the runs, and 95 % confidence intervals by Student's t.

Pure: what became of each run in, rows of a table out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.lab.queueing.intervals import Interval, interval
from bench.stats import share_deviation


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one service in one run.

    Attributes:
        variant, service, run: which it is.
        asked, answered, failed, unsent: requests, as `loading.tally` counts them.
        p50_ms, p95_ms, p99_ms: latency from when a request was due.
        deviation: how far the share of the instance that is farthest from a fair one is from it,
            relative to that; 0 where one instance answered alone.
        instances: that answered.
        running_s, paused_s, starts, most: see `lives.Cost`.
        waited: requests that waited for a start.
        counts: how many instances ran from which second on.
    """

    variant: str
    service: str
    run: int
    asked: int
    answered: int
    failed: int
    unsent: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    deviation: float
    instances: int
    running_s: float
    paused_s: float
    starts: int
    most: int
    waited: int
    counts: tuple[tuple[float, int], ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return it as a row of a file."""
        said = asdict(self)
        del said["counts"]
        return said


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that variants are compared by.

    Attributes:
        key: of the figure in a `Run`.
        title: what the report calls it.
        digits: that are shown.
        note: what it means.
    """

    key: str
    title: str
    digits: int
    note: str


P50 = Measure("p50_ms", "p50, ms", 1, "half of the requests took no longer")
P95 = Measure("p95_ms", "p95, ms", 1, "95 % took no longer")
P99 = Measure("p99_ms", "p99, ms", 1, "99 % took no longer")
DEVIATION = Measure(
    "deviation",
    "share off by",
    3,
    "how far the instance with the least fair share is from a fair one, relative to that",
)
RUNNING = Measure("running_s", "instance-seconds", 1, "of instances that were not paused")
PAUSED = Measure("paused_s", "paused, s", 1, "instance-seconds of paused instances")
STARTS = Measure("starts", "starts", 1, "instances that began in a run")
WAITED = Measure("waited", "waited for a start", 1, "requests, in a run")
FAILED = Measure("not_served", "not served", 1, "requests of a run that failed or were not sent")

LATENCIES = (P50, P95, P99)
MEASURES = (*LATENCIES, DEVIATION, RUNNING, PAUSED, STARTS, WAITED, FAILED)


@dataclass(frozen=True, slots=True)
class Row:
    """A variant's means for one service.

    Attributes:
        values: by a measure's key.
    """

    variant: str
    service: str
    runs: int
    values: Mapping[str, Interval]


def rows(runs: Iterable[Run]) -> list[Row]:
    """Return a row for each variant and service, in the order in which they first come."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.variant, run.service), []).append(run)
    return [_row(*key, theirs) for key, theirs in grouped.items()]


def _row(variant: str, service: str, runs: Sequence[Run]) -> Row:
    values = {m.key: interval([_value(run, m.key) for run in runs]) for m in MEASURES}
    return Row(variant, service, len(runs), values)


def _value(run: Run, key: str) -> float:
    if key == FAILED.key:
        return float(run.failed + run.unsent)
    return float(getattr(run, key))


def cells(row: Row) -> Iterator[str]:
    """Yield a row's values as text, a cell for each measure."""
    for measure in MEASURES:
        yield row.values[measure.key].text(measure.digits)


def spread(servers: Iterable[str]) -> tuple[float, int]:
    """Return how unevenly requests were spread, and over how many instances.

    Args:
        servers: which instance answered each request; empty names count for none.
    """
    counts = Counter(server for server in servers if server)
    return (share_deviation(list(counts.values())) if counts else 0.0), len(counts)
