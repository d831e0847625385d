"""What a simulated queue was like: the four figures of Law and Kelton's program, and quantiles.

A run ends when the customer who makes up the number asked for begins to be served (Law and Kelton,
"Simulation Modeling and Analysis", section 1.4). Until then the number in the queue, customers
beyond that number among them, and the server's use are averaged over time.

Nothing but Python's library is imported here: a worker's container has no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one queue; times in the unit of the arrivals.

    Attributes:
        average_delay: in the queue, of a customer.
        average_number: of customers in the queue, over time.
        utilisation: share of the time in which a server was busy, averaged over the servers.
        end: when the run ended.
        customers: that were delayed; 0 of them is 0 everywhere.
        p50, p95, p99: quantiles of the delays, nearest ranks.
    """

    average_delay: float
    average_number: float
    utilisation: float
    end: float
    customers: int
    p50: float
    p95: float
    p99: float


NONE = Figures(0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
"""Of a queue to which nobody came."""


def delays_of(arrivals: Iterable[float], services: Iterable[float]) -> list[float]:
    """Return how long each customer of one server waits, first come first served (Lindley)."""
    delays = []
    free_at = 0.0
    for arrival, service in zip(arrivals, services, strict=True):
        start = max(arrival, free_at)
        delays.append(start - arrival)
        free_at = start + service
    return delays


def figures_of(
    arrivals: Sequence[float], services: Sequence[float], customers: int | None = None
) -> Figures:
    """Return the figures of one server.

    Args:
        arrivals: of all customers, ascending.
        services: how long each is served.
        customers: that are to be delayed; None, or more than there are, is all of them.
    """
    count = min(len(arrivals), len(arrivals) if customers is None else customers)
    if not count:
        return NONE
    delays = delays_of(arrivals[:count], services[:count])
    end = arrivals[count - 1] + delays[-1]
    later = takewhile(lambda arrival: arrival < end, arrivals[count:])
    waited = sum(delays) + sum(end - arrival for arrival in later)
    busy = sum(services[: count - 1])
    return Figures(
        sum(delays) / count,
        waited / end if end else 0.0,
        busy / end if end else 0.0,
        end,
        count,
        *quantiles(delays),
    )


def quantiles(delays: Iterable[float]) -> tuple[float, float, float]:
    """Return the nearest-rank quantiles at 0.5, 0.95 and 0.99 of one delay at least."""
    ranked = sorted(delays)
    p50, p95, p99 = (ranked[ceil(p * len(ranked) - 1e-9) - 1] for p in (0.5, 0.95, 0.99))
    return p50, p95, p99
