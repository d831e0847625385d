"""A road with stops, and a bus on it: how far it is from each stop, as a round trip takes.

As in PhysarumSM's experiment: RTT to a stop falls evenly from its farthest to its nearest and grows
again while the bus passes, and beyond that there is no link at all. Stops are so close that the bus
is in reach of the next one before it has left the last.

The clock begins when the bus comes within the soft limit of the first stop, and the ride ends when
it leaves that of the last.

Pure: a time in, distances out. All times are seconds, RTTs too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NEAREST_S, SOFT_S, FARTHEST_S = 0.001, 0.005, 0.010
"""RTTs, of which the last is also the hard limit."""


@dataclass(frozen=True, slots=True)
class Road:
    """Stops at even distances.

    Attributes:
        stops: their names, in the order in which the bus comes by.
        pass_s: how long the bus is in reach of each.
        apart_s: from one stop to the next.
        stretch: how many times as long all RTTs are, and the limits with them: a machine that does
            much else has delays of its own, which are no part of what is shown.
    """

    stops: tuple[str, ...]
    pass_s: float
    apart_s: float
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not self.stops or not 0 < self.apart_s < self.pass_s:
            raise ValueError("a road has a stop, and each is in reach before the last one is not")

    @property
    def soft_s(self) -> float:
        """The soft limit."""
        return SOFT_S * self.stretch

    @property
    def hard_s(self) -> float:
        """The hard limit."""
        return FARTHEST_S * self.stretch

    @property
    def length_s(self) -> float:
        """How long the ride is."""
        return 2 * self._within_s + (len(self.stops) - 1) * self.apart_s

    def nearest_at(self, stop: str) -> float:
        """Return when the bus is at a stop."""
        return self._within_s + self.stops.index(stop) * self.apart_s

    def rtt_s(self, stop: str, at_s: float) -> float | None:
        """Return the RTT from the bus to a stop; None out of reach."""
        away_s = abs(at_s - self.nearest_at(stop))
        if away_s > self.pass_s / 2:
            return None
        rtt_s = NEAREST_S + (FARTHEST_S - NEAREST_S) * away_s / (self.pass_s / 2)
        return rtt_s * self.stretch

    def rtts_s(self, at_s: float) -> Mapping[str, float | None]:
        """Return the RTTs to all stops."""
        return {stop: self.rtt_s(stop, at_s) for stop in self.stops}

    def within_limit(self, stop: str) -> tuple[float, float]:
        """Return from when to when a stop is within the soft limit."""
        at_s = self.nearest_at(stop)
        return at_s - self._within_s, at_s + self._within_s

    @property
    def _within_s(self) -> float:
        """Seconds from the soft limit to a stop."""
        return self.pass_s / 2 * (SOFT_S - NEAREST_S) / (FARTHEST_S - NEAREST_S)
