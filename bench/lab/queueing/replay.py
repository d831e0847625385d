"""A trace served by several workers in this process, by a policy that sees their queues.

Each worker draws service times from a stream of its own, so that what one gets changes nothing for
the others but by the policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.lab.errors import BadInput
from bench.lab.queueing.figures import NONE, Figures, delays_of, figures_of, quantiles
from bench.lab.queueing.services import SERVICES, Service, drawing, stream
from bench.lab.traces.choosing import Chooser
from bench.lab.traces.rows import Request
from bench.lab.traces.splitting import Share, split


@dataclass(frozen=True, slots=True)
class Serving:
    """How customers are served.

    Attributes:
        mean: service time, in the trace's unit; `ST`.
        service: the distribution.
        customers: that are delayed at each worker; `DELAY`. None is all that it gets.
        seed: of the workers' streams.
    """

    mean: float
    service: Service = "exponential"
    customers: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.mean < float("inf"):
            raise BadInput(f"the mean service time (ST) is {self.mean:g}; it must be above 0")
        if self.customers is not None and self.customers < 1:
            raise BadInput(f"DELAY is {self.customers}; it must be 1 or more")


def service_of(text: str) -> Service:
    """Return the distribution of service times of that name.

    Raises:
        BadInput: there is none.
    """
    for known in SERVICES:
        if text.strip().lower() == known:
            return known
    raise BadInput(f"--service is {text!r}; there is {', '.join(SERVICES)}")


def served(requests: Sequence[Request], chooser: Chooser, serving: Serving) -> list[Share]:
    """Return what each worker gets, and how long each of its requests is served.

    Raises:
        BadInput: the policy finds no worker for a request.
    """
    size = mean_size(requests)
    draws = [
        drawing(serving.service, serving.mean, size, stream(serving.seed, worker))
        for worker in range(1, len(chooser.workers) + 1)
    ]
    return split(requests, chooser, lambda index, request: draws[index](request.filesize))


def mean_size(requests: Sequence[Request]) -> float:
    """Return the mean size of the files; 0 of no requests."""
    return fmean(request.filesize for request in requests) if requests else 0.0


def figures(share: Share, customers: int | None) -> Figures:
    """Return the figures of one worker."""
    return figures_of(share.arrivals, share.services, customers)


def together(shares: Sequence[Share], customers: int | None) -> Figures:
    """Return the figures of all workers.

    The number in the queue is in all their queues together, the utilisation their mean, and the
    end the last one's.
    """
    each = [figures(share, customers) for share in shares]
    delays = [
        delay for share in shares for delay in delays_of(share.arrivals, share.services)[:customers]
    ]
    if not delays:
        return NONE
    return Figures(
        fmean(delays),
        sum(one.average_number for one in each),
        fmean(one.utilisation for one in each),
        max(one.end for one in each),
        len(delays),
        *quantiles(delays),
    )
