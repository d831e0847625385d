"""Where a request's time went, as `Server-Timing` shows it (W3C Server Timing)."""

import re
from collections.abc import Mapping
from math import isfinite
from time import perf_counter

MAX_FOREIGN_PHASES = 16
"""More than an allocator has; another peer's words must not make a header of any size."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Timing:
    """Phases of one request, in the order in which they happened."""

    __slots__ = ("_last", "_phases", "started")

    def __init__(self) -> None:
        self.started = self._last = perf_counter()
        self._phases: list[tuple[str, float]] = []

    def mark(self, phase: str) -> None:
        """Say that `phase` ended now and began where the phase before it ended."""
        now = perf_counter()
        self._phases.append((phase, now - self._last))
        self._last = now

    def add(self, phases: Mapping[str, float]) -> None:
        """Take in phases that another peer measured, in seconds; the clock goes on from now.

        What cannot stand in a header field is left out.
        """
        named = [(p, s) for p, s in phases.items() if _TOKEN.fullmatch(p) and isfinite(s)]
        self._phases.extend(named[:MAX_FOREIGN_PHASES])
        self._last = perf_counter()

    def elapsed_s(self) -> float:
        """Return the seconds since the request's head was there."""
        return perf_counter() - self.started

    def of(self, phase: str) -> float:
        """Return the seconds of the last phase of that name; 0 if there was none."""
        return next((seconds for name, seconds in reversed(self._phases) if name == phase), 0.0)

    def phases(self) -> list[tuple[str, float]]:
        """Return the phases and their seconds, in order."""
        return list(self._phases)

    def header(self) -> bytes:
        """Return the value of the Server-Timing field; durations are milliseconds."""
        return ", ".join([f"{p};dur={s * 1000:.3f}" for p, s in self._phases]).encode()
