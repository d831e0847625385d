"""How far peers turned out to be, as histograms: what stays of RTTs when peers are thousands.

A series for each peer would be thousands of them, of which most were measured minutes ago. A
histogram of all samples by the role of who was measured says how the network is doing in a fixed
number of series; another one says how well coordinates tell an RTT before it is measured.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

from overlay.coordinates import RttGuess
from overlay.records import Role

RTT_BOUNDS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
"""From a loopback to a satellite, three to a decade."""

ERROR_RATIO_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the measured RTT; above 1 an estimate is worth nothing."""


@dataclass(slots=True)
class Histogram:
    """Counts of values by size.

    Attributes:
        bounds: the upper ends, each included, of all buckets but the last.
        counts: how many values fell into each bucket.
        total: the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Measurements:
    """All RTT samples since the start.

    Attributes:
        rtts: seconds, by the role of the peer that was measured.
        error_ratios: how far the estimate was off before each sample, relative to the sample.
    """

    rtts: dict[Role, Histogram] = field(
        default_factory=lambda: {role: Histogram(RTT_BOUNDS_S) for role in Role}
    )
    error_ratios: Histogram = field(default_factory=lambda: Histogram(ERROR_RATIO_BOUNDS))

    def take(self, role: Role, rtt_s: float, guess: RttGuess | None) -> None:
        """Take in that a peer was measured, and what had been estimated before."""
        self.rtts[role].observe(rtt_s)
        if guess is not None and rtt_s > 0:
            self.error_ratios.observe(abs(guess.rtt_s - rtt_s) / rtt_s)
