"""M/M/1, M/M/c and M/D/1 simulated by arrays: the four figures of millions of customers.

One server is Lindley's recursion, W' = max(0, W + S - A), which over a block of customers is a
running sum less its own running minimum: numpy does a block in six passes, within the processor's
cache. Several servers are in `servers.py`.

Arrivals and services have a stream each, spawned from one seed. numpy may change what it draws for
a seed from one of its versions to the next; the figures hold in distribution.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.lab.errors import BadInput
from bench.lab.queueing import closed_forms
from bench.lab.queueing.closed_forms import Expected
from bench.lab.queueing.figures import Figures
from bench.lab.queueing.servers import Servers

BLOCK = 1 << 15
"""Customers at a time: their arrays stay in the cache."""

CHUNK = 60 * BLOCK
"""Customers at a time where there are several servers: 100 MB of arrays."""

MOST_CUSTOMERS = 50_000_000
"""Delays are held until their quantiles are taken, 8 bytes each."""

MOST_SERVERS = 10_000
MOST_LOAD = 1000.0
"""Of a server. Those who come until the last customer begins to be served are counted, and they
are as many times more than the customers asked for."""

Floats = NDArray[np.float64]
Fill = Callable[[Floats], None]
"""Draws as many numbers as an array takes."""


@dataclass(frozen=True, slots=True)
class Model:
    """A queue with Poisson arrivals.

    Attributes:
        interarrival: mean time between arrivals.
        service: mean time that a customer is served.
        servers: on the one queue.
        spread: of service times: exponential, or all the same.
    """

    interarrival: float
    service: float
    servers: int = 1
    spread: Literal["exponential", "constant"] = "exponential"

    def __post_init__(self) -> None:
        for name, value in (("interarrival", self.interarrival), ("service", self.service)):
            if not 0 < value < float("inf"):
                raise BadInput(f"the mean {name} time is {value:g}; it must be above 0")
        if not 1 <= self.servers <= MOST_SERVERS:
            raise BadInput(f"there are {self.servers} servers; it must be 1 to {MOST_SERVERS:,}")
        if self.load > MOST_LOAD:
            raise BadInput(f"the load of a server is {self.load:g}; it may be {MOST_LOAD:g}")

    @property
    def load(self) -> float:
        """What each server is offered; from 1 on the queue grows without end."""
        return closed_forms.load_of(self.interarrival, self.service, self.servers)

    def expected(self) -> Expected | None:
        """Return what theory expects; None where it does not say."""
        if self.load >= 1:
            return None
        if self.spread == "constant":
            return closed_forms.md1(self.interarrival, self.service) if self.servers == 1 else None
        return closed_forms.mmc(self.interarrival, self.service, self.servers)


def simulated(model: Model, customers: int, seed: int) -> Figures:
    """Return the figures of a run from an empty queue.

    Raises:
        BadInput: there are too many customers, or none.
    """
    delayed = checked(customers)
    arriving, serving = (
        np.random.Generator(np.random.SFC64(one)) for one in np.random.SeedSequence(seed).spawn(2)
    )
    gaps = exponential(arriving, model.interarrival)
    if model.spread == "constant":
        services: Fill = constant(model.service)
    else:
        services = exponential(serving, model.service)
    if model.servers == 1:
        return one_server(gaps, services, delayed)
    return many_servers(gaps, services, delayed, model.servers)


def checked(customers: int) -> int:
    """Return how many customers are asked for.

    Raises:
        BadInput: they are too many, or none.
    """
    if not 1 <= customers <= MOST_CUSTOMERS:
        raise BadInput(f"{customers:,} customers are asked for; it must be 1 to {MOST_CUSTOMERS:,}")
    return customers


def exponential(random: np.random.Generator, mean: float) -> Fill:
    """Return what draws exponential numbers of that mean."""

    def fill(numbers: Floats) -> None:
        random.standard_exponential(out=numbers)
        np.multiply(numbers, mean, out=numbers)

    return fill


def constant(value: float) -> Fill:
    """Return what draws the same number always."""
    return lambda numbers: numbers.fill(value)


def one_server(gaps: Fill, services: Fill, customers: int) -> Figures:
    """Return the figures of one server after so many customers began to be served."""
    delays = np.empty(customers)
    least = np.empty(min(BLOCK, customers))
    arrived = busy = ahead = last = 0.0
    for delay, gap, service in _blocks(delays, gaps, services):
        delay[0] = ahead - gap[0]
        np.subtract(service[:-1], gap[1:], out=delay[1:])
        np.cumsum(delay, out=delay)
        floor = least[: len(delay)]
        np.minimum.accumulate(delay, out=floor)
        np.minimum(floor, 0.0, out=floor)
        np.subtract(delay, floor, out=delay)
        arrived += float(gap.sum())
        busy += float(service.sum())
        last = float(service[-1])
        ahead = float(delay[-1]) + last
    return _figures(delays, gaps, arrived, busy - last, servers=1)


def many_servers(gaps: Fill, services: Fill, customers: int, servers: int) -> Figures:
    """Return the figures of several servers on one queue."""
    delays = np.empty(customers)
    queue = Servers(servers)
    arrived = served = 0.0
    for at in range(0, customers, CHUNK):
        starts = delays[at : at + CHUNK]
        times, taken = np.empty_like(starts), np.empty_like(starts)
        done = 0
        for time, gap, service in _blocks(times, gaps, services):
            np.cumsum(gap, out=time)
            np.add(time, arrived, out=time)
            arrived = float(time[-1])
            taken[done : done + len(service)] = service
            served += float(service.sum())
            done += len(service)
        queue.serve(times, taken, starts)
        np.subtract(starts, times, out=starts)  # which makes them delays
    # Of what was served, the last customer's and what of the others' lies beyond the end.
    end = arrived + float(delays[-1])
    beyond = sum(max(0.0, time - end) for time in queue.free_at)
    return _figures(delays, gaps, arrived, served - beyond, servers)


def _blocks(delays: Floats, gaps: Fill, services: Fill) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Yield the part of `delays` that a block is to fill in, and what was drawn for it."""
    gap, service = np.empty(min(BLOCK, len(delays))), np.empty(min(BLOCK, len(delays)))
    for at in range(0, len(delays), BLOCK):
        delay = delays[at : at + BLOCK]
        gaps(gap[: len(delay)])
        services(service[: len(delay)])
        yield delay, gap[: len(delay)], service[: len(delay)]


def _figures(delays: Floats, gaps: Fill, arrived: float, busy: float, servers: int) -> Figures:
    end = arrived + float(delays[-1])
    total = float(delays.sum())
    waited = total + _waited_by_later(gaps, arrived, end)
    count = len(delays)
    ranks = [ceil(p * count - 1e-9) - 1 for p in (0.5, 0.95, 0.99)]
    delays.partition(ranks)
    p50, p95, p99 = (float(delays[rank]) for rank in ranks)
    return Figures(total / count, waited / end, busy / end / servers, end, count, p50, p95, p99)


def _waited_by_later(gaps: Fill, arrived: float, end: float) -> float:
    """Return how long those wait until the end who come after the last that was delayed."""
    waited = 0.0
    times = np.empty(BLOCK)
    while arrived < end:
        gaps(times)
        np.cumsum(times, out=times)
        times += arrived
        waited += float((end - times[times < end]).sum())
        arrived = float(times[-1])
    return waited
