"""What several processes have counted, as one.

What a worker counted stays when it dies, as it was when it was last asked, so that no counter goes
backwards; what it had open is gone with it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Row = tuple[str, str, str, str, dict[str, str], float]
"""Family, its type and text; sample, its labels and value."""

_Key = tuple[str, str, tuple[tuple[str, str], ...]]


def rows_of(registry: CollectorRegistry) -> list[Row]:
    """Return every sample of a registry."""
    return [
        (family.name, family.type, family.documentation, sample.name, sample.labels, sample.value)
        for family in registry.collect()
        for sample in family.samples
    ]


class Past:
    """What workers that are gone had counted."""

    def __init__(self) -> None:
        self._rows: dict[_Key, Row] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Keep the counters and histograms of a worker that is gone."""
        _sum(self._rows, (row for row in rows if row[1] in {"counter", "histogram"}))

    def rows(self) -> Iterator[Row]:
        """Yield what is kept."""
        yield from self._rows.values()


class Summed(Collector):
    """The sum of what this process has counted and what others have.

    Args:
        own: what this process counts.
        others: returns what the others have counted.
    """

    def __init__(self, own: CollectorRegistry, others: Callable[[], Iterable[Row]]) -> None:
        self._own = own
        self._others = others

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        sums: dict[_Key, Row] = {}
        _sum(sums, rows_of(self._own))
        _sum(sums, self._others())
        families: dict[str, Metric] = {f.name: _empty(f) for f in self._own.collect()}
        for name, kind, text, sample, labels, value in sums.values():
            family = families.setdefault(name, Metric(name, text, kind))
            family.add_sample(sample, labels, value)
        yield from families.values()


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type)


def _sum(into: dict[_Key, Row], rows: Iterable[Row]) -> None:
    for row in rows:
        name, kind, text, sample, labels, value = row
        key = name, sample, tuple(sorted(labels.items()))
        before = into.get(key)
        if before is not None:
            # When a counter began is a time: the earliest holds for the sum.
            value = min(before[5], value) if sample.endswith("_created") else before[5] + value
        into[key] = name, kind, text, sample, labels, value


def read_rows(content: Iterable[Any]) -> list[Row]:
    """Return the rows of a worker's answer."""
    return [
        (str(n), str(k), str(t), str(s), dict(labels), float(value))
        for n, k, t, s, labels, value in content
    ]
