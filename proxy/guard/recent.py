"""How long the last answers took, and how long most of them: a quantile over a sliding window.

A window of so many samples forgets a change after as many requests, whatever their rate, and has
nothing to tune. The quantile is the nearest rank, worked out anew only now and then. Pure.
"""

from collections import deque
from dataclasses import dataclass, field

WINDOW = 256
"""Samples: the 99th percentile is told by two of them, and is as rough as that."""

LEAST = 32
"""Below, nothing is known."""

EVERY = 16
"""Samples after which the quantile is worked out anew; sorting takes some 10 µs."""


@dataclass(slots=True)
class Recent:
    """The last samples of something."""

    _samples: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _sorted: list[float] = field(default_factory=list)
    _new: int = 0

    def add(self, sample: float) -> None:
        """Take in a sample."""
        self._samples.append(sample)
        self._new += 1

    def quantile(self, share: float) -> float | None:
        """Return what that share of the samples does not exceed; None if they are too few."""
        if len(self._samples) < LEAST:
            return None
        if self._new >= EVERY or not self._sorted:
            self._sorted, self._new = sorted(self._samples), 0
        rank = max(0, min(len(self._sorted) - 1, int(share * len(self._sorted))))
        return self._sorted[rank]
