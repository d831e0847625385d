"""Law and Kelton's single-server program, event by event, and the generator that it comes with.

The other simulators here are checked against it: it does what the book says, in the book's order,
and with the book's generator and stream it prints the book's figures.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log

from bench.lab.queueing.figures import Figures, quantiles

MODULUS = 2**31 - 1
MULTIPLIER = 24112 * 26143
"""The book's program multiplies by one after the other; together they are 630,360,016."""

FIRST_STREAM = 1973272912
"""The seed of the book's stream 1."""

Draw = Callable[[], float]


class Generator:
    """Marse and Roberts' generator of numbers between 0 and 1 (Law and Kelton, appendix 7A)."""

    def __init__(self, seed: int = FIRST_STREAM) -> None:
        self._state = seed

    def uniform(self) -> float:
        """Return the next number."""
        self._state = self._state * MULTIPLIER % MODULUS
        return (self._state >> 7 | 1) / 2**24

    def exponential(self, mean: float) -> float:
        """Return the next exponential number of that mean."""
        return -mean * log(self.uniform())


@dataclass(slots=True)
class _Server:
    """The state between two events."""

    clock: float = 0.0
    queue: deque[float] = field(default_factory=deque)
    departure: float = inf
    delays: list[float] = field(default_factory=list)
    waited: float = 0.0
    busy: float = 0.0

    def advance(self, to: float) -> None:
        """Move the clock, and what is averaged over time."""
        self.waited += len(self.queue) * (to - self.clock)
        if self.departure < inf:
            self.busy += to - self.clock
        self.clock = to

    def serve(self, arrival: float, service: Draw) -> None:
        """Begin with a customer."""
        self.delays.append(self.clock - arrival)
        self.departure = self.clock + service()


def simulated(gap: Draw, service: Draw, customers: int) -> Figures:
    """Return the figures of one server after so many customers began to be served.

    Args:
        gap: draws the time to the next arrival.
        service: draws how long a customer is served; both draw as events come, which matters
            where they draw from one stream.
        customers: 1 or more.
    """
    server = _Server()
    arrival = gap()
    while len(server.delays) < customers:
        if arrival < server.departure:
            server.advance(arrival)
            arrival = server.clock + gap()
            _arrive(server, service)
        else:
            server.advance(server.departure)
            _depart(server, service)
    end = server.clock
    return Figures(
        sum(server.delays) / customers,
        server.waited / end,
        server.busy / end,
        end,
        customers,
        *quantiles(server.delays),
    )


def _arrive(server: _Server, service: Draw) -> None:
    if server.departure < inf:
        server.queue.append(server.clock)
    else:
        server.serve(server.clock, service)


def _depart(server: _Server, service: Draw) -> None:
    if server.queue:
        server.serve(server.queue.popleft(), service)
    else:
        server.departure = inf


def book(interarrival: float, service: float, customers: int) -> Figures:
    """Return what the book's program prints: one stream for arrivals and services."""
    draws = Generator()
    return simulated(
        lambda: draws.exponential(interarrival), lambda: draws.exponential(service), customers
    )
