"""What instances cost: for how many seconds there were how many of them.

Changes of a network's instances come in as its members see them, each with the state that an
instance has from then on; out come instance-seconds within a span of time. An instance costs from
when it begins to start until it is gone. A paused one keeps its memory and uses no processor, so
its seconds are counted apart.

Pure. Times are seconds since 1970.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

GONE, PAUSED = "gone", "paused"

MOST_CHANGES = 1_000_000
"""That are kept; an experiment with more of them is refused, not counted wrongly."""


class Change(NamedTuple):
    """An instance has this state from then on."""

    at: float
    service: str
    instance: str
    state: str


class Cost(NamedTuple):
    """What instances of a service cost in a span.

    Attributes:
        running_s: seconds of all instances that were not paused, together.
        paused_s: of all that were.
        starts: instances that began within the span.
        most: that ran at once.
    """

    running_s: float
    paused_s: float
    starts: int
    most: int


@dataclass(slots=True)
class Lives:
    """The changes so far, in the order in which they came."""

    _changes: dict[str, dict[str, list[Change]]] = field(default_factory=dict)
    _count: int = 0

    def take(self, change: Change) -> None:
        """Take in a change.

        Raises:
            OverflowError: there are too many.
        """
        self._count += 1
        if self._count > MOST_CHANGES:
            raise OverflowError(f"over {MOST_CHANGES:,} changes of instances")
        self._changes.setdefault(change.service, {}).setdefault(change.instance, []).append(change)

    def cost(self, service: str, begin: float, end: float) -> Cost:
        """Return what a service's instances cost between two times."""
        spans = [span for life in self._lives(service) for span in _clipped(life, begin, end)]
        running = [(a, b) for a, b, state in spans if state != PAUSED]
        paused = [(a, b) for a, b, state in spans if state == PAUSED]
        starts = sum(begin <= life[0].at < end for life in self._lives(service))
        most = max((count for _, count in steps(running)), default=0)
        return Cost(_length(running), _length(paused), starts, most)

    def counts(self, service: str, begin: float, end: float) -> list[tuple[float, int]]:
        """Return how many instances ran from when on, as seconds since `begin`."""
        spans = [span for life in self._lives(service) for span in _clipped(life, begin, end)]
        running = [(a - begin, b - begin) for a, b, state in spans if state != PAUSED]
        return [(0.0, 0), *steps(running)] if running else [(0.0, 0), (end - begin, 0)]

    def _lives(self, service: str) -> Iterator[list[Change]]:
        yield from self._changes.get(service, {}).values()


def _clipped(life: list[Change], begin: float, end: float) -> Iterator[tuple[float, float, str]]:
    """Yield the spans of a life that are within two times, with the state in each."""
    until = [change.at for change in life[1:]] + [end]
    for change, next_at in zip(life, until, strict=True):
        first, last = max(change.at, begin), min(next_at, end)
        if change.state != GONE and first < last:
            yield first, last, change.state


def steps(spans: list[tuple[float, float]]) -> list[tuple[float, int]]:
    """Return how many spans there are at once from when on."""
    edges = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
    found: list[tuple[float, int]] = []
    count = 0
    for at, step in edges:
        count += step
        if found and found[-1][0] == at:
            found.pop()
        found.append((at, count))
    return found


def _length(spans: list[tuple[float, float]]) -> float:
    return sum(b - a for a, b in spans)
