"""What a trace turned out to be: its realised moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from bench.lab.traces.rows import Request, gaps


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a trace.

    Attributes:
        requests: how many.
        span: from the first arrival to the last.
        rate: requests in a unit of time; 0 where the span is.
        gap_mean, gap_stdev: of the times between successive arrivals.
        gap_variation: deviation ÷ mean; 1 of a Poisson process.
        read_percent: of the requests.
        filesize_mean, filesize_stdev: of the files' sizes.
        places: different ones that are asked for.
    """

    requests: int
    span: float
    rate: float
    gap_mean: float
    gap_stdev: float
    gap_variation: float
    read_percent: float
    filesize_mean: float
    filesize_stdev: float
    places: int


def summarised(requests: Sequence[Request]) -> Summary:
    """Return the moments of a trace of one request at least."""
    between = gaps(requests) or [0.0]
    mean, stdev = fmean(between), pstdev(between)
    span = requests[-1].arrival - requests[0].arrival
    sizes = [request.filesize for request in requests]
    return Summary(
        requests=len(requests),
        span=span,
        rate=(len(requests) - 1) / span if span else 0.0,
        gap_mean=mean,
        gap_stdev=stdev,
        gap_variation=stdev / mean if mean else 0.0,
        read_percent=100 * sum(r.operation == "read" for r in requests) / len(requests),
        filesize_mean=fmean(sizes),
        filesize_stdev=pstdev(sizes),
        places=len({request.space for request in requests}),
    )
