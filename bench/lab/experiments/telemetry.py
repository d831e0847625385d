"""What a machine does while an experiment runs, as rows: gauges as they are, counters as rates.

A reading has gauges, whose value is what counts, and counters, which only grow: of those the rate
between two readings is kept, so that a period says what happened in all of it and not at its end.
A counter is scaled so that its growth in a second is the value wanted.

    meter = Meter("h1", node_counters.read)
    rows = meter.sample(time.time())     # every period; the first has the gauges alone
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.lab.experiments.records import TelemetryRow

PERIOD_S = 1.0

What = tuple[str, str]
"""A metric with its unit, and of which part of the node."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at one time."""

    gauges: Mapping[What, float] = field(default_factory=dict)
    counters: Mapping[What, float] = field(default_factory=dict)


class Meter:
    """Reads one machine, or one part of it, again and again; `read` may block."""

    def __init__(self, node: str, read: Callable[[], Reading]) -> None:
        self._node = node
        self._read = read
        self._before: tuple[float, Reading] | None = None

    def sample(self, now: float) -> list[TelemetryRow]:
        """Return what is so now, and what was done since the last call."""
        reading = self._read()
        values = dict(reading.gauges)
        if self._before is not None:
            then, before = self._before
            values |= rates(before.counters, reading.counters, now - then)
        self._before = (now, reading)
        return [TelemetryRow(now, *what, self._node, value) for what, value in values.items()]


def rates(
    before: Mapping[What, float], after: Mapping[What, float], seconds: float
) -> dict[What, float]:
    """Return how much each counter grew in a second.

    One that is new, or has begun anew, says nothing yet.
    """
    if seconds <= 0:
        return {}
    return {
        what: (count - before[what]) / seconds
        for what, count in after.items()
        if what in before and count >= before[what]
    }


def pressure(text: str) -> dict[str, float]:
    """Return the percent-seconds stalled by kind, `some` and `full`, of a file in /proc/pressure.

    Grown by one in a second means that tasks waited for 1 % of it (kernel: accounting/psi.rst).
    """
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        if "total" in values:
            found[kind] = int(values["total"]) / 1e6 * 100
    return found
