"""The items that no worker has: those not yet given out, and those that came back."""

from collections.abc import Iterable
from heapq import heappop, heappush


class Backlog:
    """Indices in the order of the input; what came back goes first."""

    def __init__(self) -> None:
        self._returned: list[tuple[int, int]] = []
        self._fresh = self.offered = 0
        self.closed = False

    def __len__(self) -> int:
        return self.offered - self._fresh + self.returned

    @property
    def returned(self) -> int:
        """How many of them came back."""
        return sum(stop - start for start, stop in self._returned)

    def offer(self, items: int) -> None:
        """Add the input's next `items`."""
        self.offered += items

    def close(self) -> None:
        """Note that the input has ended."""
        self.closed = True

    def give_back(self, ranges: Iterable[range]) -> None:
        """Put back what a worker did not compute; each range is taken by itself."""
        for one in ranges:
            heappush(self._returned, (one.start, one.stop))

    def take(self, most: int, *, fresh: bool = True) -> range | None:
        """Take up to `most` of the first indices, or None if there is none.

        Args:
            most: how many.
            fresh: whether they may be ones that were not given out yet.
        """
        if self._returned:
            start, stop = heappop(self._returned)
            if stop - start > most:
                heappush(self._returned, (start + most, stop))
                stop = start + most
            return range(start, stop)
        if not fresh or self._fresh == self.offered:
            return None
        start, self._fresh = self._fresh, min(self._fresh + most, self.offered)
        return range(start, self._fresh)
