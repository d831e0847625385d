"""One after the other: round robin, plain and by weight.

By weight, each backend has the time at which it is next due, 1 / weight after it was last: the one
that is due first is taken (earliest deadline first, as Envoy schedules). That keeps fractions of
weights, which Galileo's weighted round robin cut off, and spreads the turns: weights 1 and 2 give
b, a, b.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from proxy.ranking.policies.backend import B, Backend, Prepared, usable_of

_GOLDEN = 0.618033988749895
"""Multiples of it, less their whole parts, lie far from each other: so do the light ones' turns."""


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        count = len(among)
        for _ in range(count):
            self._turn = (self._turn + 1) % count
            found = among[self._turn]
            if found.usable(now):
                return found
        return None


class WeightedRoundRobin:
    """Each in turn, the heavier more often."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: dict[str, float] = {}
        self._heap = Prepared(self._scheduled)

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        del key
        heap = self._heap.of(among)
        passed: list[int] = []
        found: B | None = None
        while heap and found is None:
            due, number = heap[0]
            backend = among[number]
            if backend.usable(now):
                found, self._now = backend, due
                due += 1.0 / backend.weight
                self._due[backend.name] = due
                heapreplace(heap, (due, number))
            else:
                passed.append(heappop(heap)[1])
        for number in passed:  # due now, and not as often as it was passed over
            heappush(heap, (self._now, number))
        if found is None and (rest := usable_of(among, now)):
            found = rest[0]
        return found

    def _scheduled(self, among: Sequence[Backend]) -> list[tuple[float, int]]:
        """Return when each is due; who is known keeps its place, who is new waits its turn."""
        due: dict[str, float] = {}
        heap: list[tuple[float, int]] = []
        for number, backend in enumerate(among):
            if backend.weight:
                period = 1.0 / backend.weight
                first = self._now + period * ((0.5 + number * _GOLDEN) % 1.0)
                at = min(self._due.get(backend.name, first), self._now + period)
                due[backend.name] = at
                heap.append((at, number))
        self._due = due
        heapify(heap)
        return heap
