"""Clocks that are not right."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """What a machine's clock shows, as against the true time.

    Attributes:
        ahead: seconds, at the true time 0.
        rate: seconds that it counts in a true one.
    """

    ahead: float = 0.0
    rate: float = 1.0

    def shows(self, true: float) -> float:
        """Return what it shows at a true time."""
        return self.ahead + self.rate * true

    def true(self, shown: float) -> float:
        """Return the true time at which it shows this."""
        return (shown - self.ahead) / self.rate
