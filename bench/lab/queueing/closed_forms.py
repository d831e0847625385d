"""What queueing theory expects of M/M/1, M/M/c and M/D/1 in the long run.

Poisson arrivals, `c` servers, first come first served. Erlang's C formula comes out of the stable
recursion for his B formula; M/D/1 is Pollaczek and Khinchine's with service times that do not vary
(Gross and Harris, "Fundamentals of Queueing Theory", chapters 2 and 5).
"""

from dataclasses import dataclass
from math import log


@dataclass(frozen=True, slots=True)
class Expected:
    """Of a queue in its steady state.

    Attributes:
        delay: mean, in the queue.
        number: mean, in the queue.
        utilisation: of each server.
        p50, p95, p99: quantiles of the delay; None where there is no simple formula.
    """

    delay: float
    number: float
    utilisation: float
    p50: float | None
    p95: float | None
    p99: float | None


def load_of(interarrival: float, service: float, servers: int = 1) -> float:
    """Return the offered load of each server; from 1 on there is no steady state."""
    return service / interarrival / servers


def mm1(interarrival: float, service: float) -> Expected:
    """Return what one server with exponential service times comes to; the load is below 1."""
    return mmc(interarrival, service, 1)


def mmc(interarrival: float, service: float, servers: int) -> Expected:
    """Return what several servers on one queue come to; the load is below 1."""
    waits = erlang_c(service / interarrival, servers)
    drain = servers / service - 1 / interarrival
    delay = waits / drain

    def quantile(p: float) -> float:
        return max(0.0, log(waits / (1 - p)) / drain)

    load = load_of(interarrival, service, servers)
    return Expected(
        delay, delay / interarrival, load, quantile(0.5), quantile(0.95), quantile(0.99)
    )


def md1(interarrival: float, service: float) -> Expected:
    """Return what one server with constant service times comes to; the load is below 1."""
    load = load_of(interarrival, service)
    delay = load * service / (2 * (1 - load))
    return Expected(delay, delay / interarrival, load, None, None, None)


def erlang_b(offered: float, servers: int) -> float:
    """Return the share of customers who find all servers busy where nobody waits."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def erlang_c(offered: float, servers: int) -> float:
    """Return the share of customers who have to wait; `offered` is below `servers`."""
    blocked = erlang_b(offered, servers)
    return blocked / (1 - offered / servers * (1 - blocked))
