"""Where a request's time went, as `Server-Timing` shows it (W3C Server Timing)."""

from collections.abc import Mapping
from time import perf_counter


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
        """Take in phases that another peer measured, in seconds; the clock goes on from now."""
        self._phases.extend(phases.items())
        self._last = perf_counter()

    def header(self) -> bytes:
        """Return the value of the Server-Timing field; durations are milliseconds."""
        return ", ".join(f"{p};dur={s * 1000:.3f}" for p, s in self._phases).encode()
