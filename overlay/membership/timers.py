"""Things that are due at a time, which may be moved while they wait."""

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something that waits; its `deadline` is `inf` once it does no longer."""

    deadline: float

    def shift(self, seconds: float) -> None:
        """Move it into the future."""
        ...


T = TypeVar("T", bound=Timed)


class Timers(Generic[T]):
    """A heap of what waits. What ends early stays in it, ignored, until its time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._pushed = 0

    def add(self, timed: T) -> None:
        """Wait for the deadline of `timed`; call again when that moved nearer, or was reached."""
        self._pushed += 1
        heappush(self._heap, (timed.deadline, self._pushed, timed))

    def due(self, now: float) -> Iterator[T]:
        """Take out everything whose deadline has come, in that order."""
        while self._heap and self._heap[0][0] <= now:
            _, _, timed = heappop(self._heap)
            if timed.deadline <= now:
                yield timed
            elif timed.deadline < inf:
                self.add(timed)

    def next(self) -> float:
        """Return when to look again, which may be sooner than anything is due."""
        return self._heap[0][0] if self._heap else inf

    def shift(self, seconds: float) -> None:
        """Move everything that waits into the future."""
        for timed in {id(timed): timed for _, _, timed in self._heap}.values():
            timed.shift(seconds)
        self._heap = [(at + seconds, order, timed) for at, order, timed in self._heap]

    def clear(self) -> None:
        """Wait for nothing any more."""
        self._heap.clear()
