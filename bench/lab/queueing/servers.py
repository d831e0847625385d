"""When customers of several servers on one queue begin to be served, first come first served.

The recursion is Kiefer and Wolfowitz's: the servers are the times at which they are free, and each
customer takes the earliest, `start = max(arrival, earliest)`, and puts back `start + service`. That
is a heap and a customer at a time, so arrays do not help as long as it is done in order.

It need not be. Customers are cut into segments, and all segments are worked through at once, a
customer of each in one step of arrays, as if each had found all servers free. Then a segment is
done again with what the one before left behind, until the servers are as they were at the same
customer the first time: from then on everything is the same, to the last bit, because nothing is
computed but the same maxima and sums (Heidelberger and Stone, "Parallel trace-driven cache
simulation by time partitioning", 1990; Greenberg, Lubachevsky and Mitrani, 1991). A queue forgets
how it began the sooner the less it is loaded. Where it does not within `MOST_PASSES`, or there are
too many servers or too few customers for it to pay, the heap does it.
"""

from heapq import heapify, heapreplace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEGMENT = 1000
"""Customers of a segment: several times what a queue with a load of 0.8 takes to forget."""

WINDOW = 50
"""Steps from one look at whether segments have come together to the next."""

LEAST_SEGMENTS = 64
"""Below, a step of arrays costs more than a heap."""

MOST_SERVERS = 32
"""That are kept in order a step: each is two passes over an array. A heap takes their logarithm."""

MOST_PASSES = 20
"""Over segments that did not come together; then the queue remembers for too long."""


class Servers:
    """Servers on one queue, all free at time 0.

    Attributes:
        free_at: when each is free.
    """

    def __init__(self, count: int) -> None:
        self.free_at = [0.0] * count
        self._forgets = count <= MOST_SERVERS

    def serve(self, arrivals: Floats, services: Floats, starts: Floats) -> None:
        """Fill in when the next customers begin to be served.

        Args:
            arrivals: when they come, ascending.
            services: how long each is served.
            starts: takes the times.
        """
        done = 0
        segments = len(arrivals) // SEGMENT
        if self._forgets and segments >= LEAST_SEGMENTS:
            cut = segments * SEGMENT
            done = self._by_segments(arrivals[:cut], services[:cut], starts[:cut])
            self._forgets = done == cut
        self._by_heap(arrivals[done:], services[done:], starts[done:])

    def _by_heap(self, arrivals: Floats, services: Floats, starts: Floats) -> None:
        free_at = self.free_at
        heapify(free_at)
        found: list[float] = []
        append = found.append
        for start, service in zip(arrivals.tolist(), services.tolist(), strict=True):
            if free_at[0] > start:  # noqa: PLR1730  (max() takes as long as all the rest)
                start = free_at[0]  # noqa: PLW2901
            append(start)
            heapreplace(free_at, start + service)
        starts[:] = found

    def _by_segments(self, arrivals: Floats, services: Floats, starts: Floats) -> int:
        """Serve whole segments; return how many customers, fewer where segments remember."""
        run = _Segments(arrivals, services, self.free_at)
        settled = run.settle()
        starts[:] = run.starts.T.ravel()
        if settled:
            self.free_at = run.ends[:, settled - 1].tolist()
        return settled * SEGMENT


class _Segments:
    """Segments side by side: a row for each step, a column for each segment.

    Attributes:
        starts: when customers begin to be served.
        ends: the servers after each segment, those that are free first in the first row.
    """

    def __init__(self, arrivals: Floats, services: Floats, free_at: list[float]) -> None:
        self._arrivals = np.ascontiguousarray(arrivals.reshape(-1, SEGMENT).T)
        self._services = np.ascontiguousarray(services.reshape(-1, SEGMENT).T)
        count = self._arrivals.shape[1]
        self._begins = np.zeros((len(free_at), count))
        self._begins[:, 0] = sorted(free_at)
        self._seen = np.full((SEGMENT // WINDOW, len(free_at), count), np.nan)
        self.starts = np.empty_like(self._arrivals)
        self.ends = np.empty_like(self._begins)

    def settle(self) -> int:
        """Work through all segments until each has begun with what the one before left.

        Returns:
            How many from the first on have.
        """
        count = len(self._arrivals[0])
        stale = np.arange(count)
        for _ in range(MOST_PASSES):
            changed = self._work(stale)
            stale = changed[changed < count - 1] + 1
            self._begins[:, stale] = self.ends[:, stale - 1]
            if not len(stale):
                return count
        return int(stale[0])

    def _work(self, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        """Do these segments; return those whose end is another one than it was."""
        servers = self._begins[:, chosen]
        for number, seen in enumerate(self._seen):
            steps = slice(number * WINDOW, (number + 1) * WINDOW)
            arrivals = _columns(self._arrivals[steps], chosen)
            services = _columns(self._services[steps], chosen)
            if len(chosen) == len(self._arrivals[0]):
                _step(servers, arrivals, services, self.starts[steps])
            else:
                starts = np.empty_like(arrivals)
                _step(servers, arrivals, services, starts)
                self.starts[steps, chosen] = starts
            apart = ~_same(servers, _columns(seen, chosen), arrivals[-1])
            seen[:, chosen] = servers
            if not apart.all():
                chosen, servers = chosen[apart], servers[:, apart]
            if not len(chosen):
                break
        self.ends[:, chosen] = servers
        return chosen


def _columns(table: Floats, chosen: NDArray[np.intp]) -> Floats:
    return table if len(chosen) == table.shape[1] else table.take(chosen, axis=1)


def _step(servers: Floats, arrivals: Floats, services: Floats, starts: Floats) -> None:
    """Serve a window's customers, a row at a time, and fill in when each begins to be served."""
    carried = np.empty(arrivals.shape[1])
    places = list(pairwise(servers))
    for arrival, service, start in zip(arrivals, services, starts, strict=True):
        np.maximum(arrival, servers[0], out=start)
        np.add(start, service, out=carried)
        for place, above in places:  # it goes to its place among the others, in order
            np.minimum(carried, above, out=place)
            np.maximum(carried, above, out=carried)
        servers[-1] = carried


def _same(servers: Floats, others: Floats, now: Floats) -> NDArray[np.bool_]:
    """Return where servers are the same to who comes at `now` or later: free is free."""
    return np.asarray((np.maximum(servers, now) == np.maximum(others, now)).all(axis=0))
