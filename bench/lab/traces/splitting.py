"""A trace split over workers, each of which serves one request at a time, in order.

With service times a policy sees how many requests are at each worker at the moment of its choice.
Without them nothing ends, and it sees how many each was given so far.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bench.lab.traces.choosing import Chooser
from bench.lab.traces.rows import Request

Serve = Callable[[int, Request], float]
"""Draws how long a worker, by its index, takes for a request."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker got.

    Attributes:
        requests: in order of arrival, with its number as `worker`.
        services: how long each takes; empty where nobody serves.
    """

    requests: list[Request] = field(default_factory=list)
    services: list[float] = field(default_factory=list)

    @property
    def arrivals(self) -> list[float]:
        """When each of its requests comes."""
        return [request.arrival for request in self.requests]


def split(requests: Iterable[Request], chooser: Chooser, serve: Serve | None = None) -> list[Share]:
    """Return what each worker gets.

    Raises:
        BadInput: the policy finds no worker for a request.
    """
    shares = [Share() for _ in chooser.workers]
    queues = _Queues(chooser)
    for request in requests:
        queues.end_until(request.arrival)
        index = chooser.pick(request)
        chooser.workers[index].in_flight += 1
        shares[index].requests.append(request._replace(worker=index + 1))
        if serve is not None:
            service = serve(index, request)
            shares[index].services.append(service)
            queues.begin(index, request.arrival, service)
    return shares


class _Queues:
    """When what is at each worker will be done."""

    def __init__(self, chooser: Chooser) -> None:
        self._workers = chooser.workers
        self._free_at = [0.0] * len(self._workers)
        self._under_way: list[tuple[float, int, float]] = []

    def begin(self, index: int, arrival: float, service: float) -> None:
        """Queue a request at a worker."""
        done = max(self._free_at[index], arrival) + service
        self._free_at[index] = done
        heappush(self._under_way, (done, index, arrival))

    def end_until(self, now: float) -> None:
        """Take what is done by now from its worker, whose latency it tells."""
        while self._under_way and self._under_way[0][0] <= now:
            done, index, arrival = heappop(self._under_way)
            worker = self._workers[index]
            worker.in_flight -= 1
            worker.latency.observe(done - arrival, done)
