"""A bound on starting what fails again and again. Pure.

A service whose instances die at once would otherwise be started as fast as requests come. After
`FAILURES` failures within `WINDOW_S` seconds the next start is refused, with the last reason, until
the oldest of them is out of the window.
"""

from collections import deque
from dataclasses import dataclass, field

from overlay.names import ServiceName

FAILURES = 5
WINDOW_S = 30.0
"""One try every six seconds on average: enough to see a repaired database come back."""

MAX_SERVICES = 10_000
"""As many as a network's definitions."""

RevisionKey = tuple[ServiceName, int]


@dataclass(slots=True)
class CrashGuard:
    """Remembers the recent failures of each revision."""

    _failures: dict[RevisionKey, deque[tuple[float, str]]] = field(default_factory=dict)

    def failed(self, key: RevisionKey, now: float, reason: str) -> None:
        """Take in that a start failed, or that an instance ended by itself."""
        if len(self._failures) >= MAX_SERVICES:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(key, deque(maxlen=FAILURES)).append((now, reason))

    def forget(self, key: RevisionKey) -> None:
        """Take in that the revision works, or is gone."""
        self._failures.pop(key, None)

    def refusal(self, key: RevisionKey, now: float) -> str | None:
        """Return why no instance of this revision may start at `now`; None if one may."""
        failures = self._failures.get(key)
        if failures is None or len(failures) < FAILURES:
            return None
        wait_s = failures[0][0] + WINDOW_S - now
        if wait_s <= 0:
            return None
        return (
            f"{key[0]} failed {FAILURES} times within {WINDOW_S:g} s and is not started for "
            f"another {wait_s:.0f} s; the last time: {failures[-1][1]}"
        )
