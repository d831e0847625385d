"""Where a request's time went, as `Server-Timing` shows it (W3C Server Timing)."""

import re
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from time import perf_counter

MAX_FOREIGN_PHASES = 16
"""More than an allocator has; another peer's words must not make a header of any size."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Timing:
    """Phases of one request, in the order in which they happened."""

    __slots__ = ("_last", "_names", "_seconds", "started")

    def __init__(self) -> None:
        self.started = self._last = perf_counter()
        self._names: list[str] = []
        self._seconds: list[float] = []

    def mark(self, phase: str) -> None:
        """Say that `phase` ended now and began where the phase before it ended."""
        now = perf_counter()
        self._names.append(phase)
        self._seconds.append(now - self._last)
        self._last = now

    def add(self, phases: Mapping[str, float]) -> None:
        """Take in phases that another peer measured, in seconds; the clock goes on from now.

        What cannot stand in a header field is left out.
        """
        named = [(p, s) for p, s in phases.items() if _TOKEN.fullmatch(p) and isfinite(s)]
        for phase, seconds in named[:MAX_FOREIGN_PHASES]:
            self._names.append(phase)
            self._seconds.append(seconds)
        self._last = perf_counter()

    def elapsed_s(self) -> float:
        """Return the seconds since the request's head was there."""
        return perf_counter() - self.started

    def last(self, phase: str) -> float:
        """Return the seconds of the last phase if that is its name; 0 if not."""
        return self._seconds[-1] if self._names and self._names[-1] == phase else 0.0

    def phases(self) -> list[tuple[str, float]]:
        """Return the phases and their seconds, in order."""
        return list(zip(self._names, self._seconds, strict=True))

    def header(self) -> bytes:
        """Return the value of the Server-Timing field; durations are milliseconds."""
        return _field(tuple(self._names)) % tuple([s * 1000 for s in self._seconds])


@lru_cache(maxsize=256)
def _field(phases: tuple[str, ...]) -> bytes:
    """Return the field's value with places for the durations."""
    return b", ".join(b"%b;dur=%%.3f" % phase.encode() for phase in phases)
