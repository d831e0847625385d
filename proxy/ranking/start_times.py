"""What starts of each service took lately: what the next one will take.

Pure: phases in, times out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from overlay.names import ServiceName
from proxy.ranking.placement import Times

MAX_SERVICES = 1024
"""The oldest are forgotten past it, and planned for as what was never started."""

ALPHA = 0.3
"""Weight of the newest start: a handful forgets a change."""

LEAST_FETCH_S = 0.25
"""An image phase below it found the image there."""

MOST_S = 3600.0
"""Another peer says how long it took; more than an hour is nonsense."""

_STARTING = ("create", "start", "ready")


@dataclass(slots=True)
class StartTimes:
    """Smoothed times by service."""

    _known: dict[ServiceName, Times] = field(default_factory=dict)

    def of(self, service: ServiceName) -> Times:
        """Return what to expect of a start of `service`."""
        return self._known.get(service, Times())

    def observe(self, service: ServiceName, phases: Mapping[str, float]) -> None:
        """Take in the phases of one start, in seconds; an instance that was found has none."""
        sane = {p: s for p, s in phases.items() if isfinite(s) and 0 <= s <= MOST_S}
        if "start" not in sane:
            return
        first, old = service not in self._known, self._known.pop(service, Times())
        start_s = sum(sane.get(phase, 0.0) for phase in _STARTING)
        fetch_s = sane.get("image", 0.0)
        self._known[service] = Times(
            start_s if first else _smoothed(old.start_s, start_s),
            old.fetch_s if fetch_s < LEAST_FETCH_S else _smoothed(old.fetch_s, fetch_s),
        )
        if len(self._known) > MAX_SERVICES:
            del self._known[next(iter(self._known))]


def _smoothed(old: float, new: float) -> float:
    return old + ALPHA * (new - old)
