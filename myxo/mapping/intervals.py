"""A set of indices that is kept as few ranges, because they are mostly added in order."""

from bisect import bisect_left, bisect_right


class Intervals:
    """Indices as sorted, disjoint, half-open ranges that never touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        ranges = zip(self._starts, self._stops, strict=True)
        return f"Intervals({', '.join(f'{start}..{stop}' for start, stop in ranges)})"

    def missing(self, start: int, stop: int) -> list[range]:
        """Return what of `start` to `stop` is not in the set, in order."""
        gaps = []
        # The first range that ends behind `start`; the others before it do not matter.
        at = bisect_right(self._stops, start)
        while start < stop and at < len(self._starts) and self._starts[at] < stop:
            if start < self._starts[at]:
                gaps.append(range(start, self._starts[at]))
            start = self._stops[at]
            at += 1
        if start < stop:
            gaps.append(range(start, stop))
        return gaps

    def add(self, start: int, stop: int) -> list[range]:
        """Put `start` to `stop` into the set; return what of it was not there, in order."""
        gaps = self.missing(start, stop)
        if not gaps:
            return gaps
        self._count += sum(len(gap) for gap in gaps)
        # All ranges that overlap or touch become one.
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        return gaps
