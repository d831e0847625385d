"""A bound on starting what fails again and again. Pure.

A service whose instances die at once would otherwise be started as fast as requests come. After
`FAILURES` failures within `WINDOW_S` seconds the next start is refused, with the last reason, until
the oldest of them is out of the window.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from overlay.names import ServiceName

FAILURES = 5
WINDOW_S = 30.0
"""One try every six seconds on average: enough to see a repaired database come back."""

MAX_SERVICES = 10_000
"""As many as a network's definitions."""

MAX_LOGS = 64
"""Ends of logs that are remembered, of some 16 KiB each."""

RevisionKey = tuple[ServiceName, int]


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """A revision that failed lately.

    Attributes:
        failures: within the window, at most `FAILURES`.
        reason: of the last one.
        wait_s: until the next start; 0 if one may start now.
        log: the end of what the last one printed, while it is remembered.
    """

    service: ServiceName
    revision: int
    failures: int
    reason: str
    wait_s: float
    log: str = ""


@dataclass(slots=True)
class CrashGuard:
    """Remembers the recent failures of each revision."""

    _failures: dict[RevisionKey, deque[tuple[float, str]]] = field(default_factory=dict)
    _logs: OrderedDict[RevisionKey, str] = field(default_factory=OrderedDict)

    def failed(self, key: RevisionKey, now: float, reason: str, log: str = "") -> None:
        """Take in that a start failed, or that an instance ended by itself."""
        self._logs[key] = log
        self._logs.move_to_end(key)
        if len(self._logs) > MAX_LOGS:
            self._logs.popitem(last=False)
        if len(self._failures) >= MAX_SERVICES:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(key, deque(maxlen=FAILURES)).append((now, reason))

    def forget(self, service: ServiceName, below: int | None) -> None:
        """Forget the revisions of a service below `below`, or all: nobody will start them again."""
        for key in [k for k in self._failures if k[0] == service]:
            if below is None or key[1] < below:
                del self._failures[key]
                self._logs.pop(key, None)

    def refusal(self, key: RevisionKey, now: float) -> str | None:
        """Return why no instance of this revision may start at `now`; None if one may."""
        wait_s = self._wait_s(key, now)
        if wait_s <= 0:
            return None
        return (
            f"{key[0]} failed {FAILURES} times within {WINDOW_S:g} s and is not started for "
            f"another {wait_s:.0f} s; the last time: {self._failures[key][-1][1]}"
        )

    def loops(self, now: float) -> list[CrashLoop]:
        """Return what failed within the window, for people."""
        found = []
        for key, failures in self._failures.items():
            recent = [reason for at, reason in failures if now - at < WINDOW_S]
            if recent:
                wait_s = max(0.0, self._wait_s(key, now))
                log = self._logs.get(key, "")
                found.append(CrashLoop(*key, len(recent), recent[-1], wait_s, log))
        return found

    def _wait_s(self, key: RevisionKey, now: float) -> float:
        failures = self._failures.get(key)
        if failures is None or len(failures) < FAILURES:
            return 0.0
        return failures[0][0] + WINDOW_S - now
