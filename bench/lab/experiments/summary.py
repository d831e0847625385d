"""What came of an experiment's requests, in the figures that experiments are compared by. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 95, 99)

_LEAST_FAILURE = 300

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of all requests of an experiment; latencies are seconds from when one was due.

    Attributes:
        requests: all of them.
        failed: without an answer, or with a status of 300 and above; in no latency.
        rate: requests a second, from when the first was due to when the last ended.
        mean, p50, p95, p99, longest: None where none was answered.
    """

    requests: int
    failed: int
    rate: float
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None


def summarised(requests: npt.ArrayLike) -> Summary:
    """Return the figures of requests, given when each was due, when it ended, and its status."""
    table = np.asarray(requests, dtype=np.float64).reshape(-1, 3)
    if not len(table):
        return Summary(0, 0, 0.0)
    created, done, status = table.T
    answered = (status >= 0) & (status < _LEAST_FAILURE)
    span = float(done.max() - created.min())
    rate = len(table) / span if span > 0 else 0.0
    failed = int(len(table) - answered.sum())
    latencies = (done - created)[answered]
    if not len(latencies):
        return Summary(len(table), failed, rate)
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, PERCENTILES))
    return Summary(
        len(table), failed, rate, float(latencies.mean()), p50, p95, p99, float(latencies.max())
    )
