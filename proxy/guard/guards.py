"""What keeps a service in trouble, or in too much demand, from taking down what is around it."""

from dataclasses import dataclass

from proxy.guard.ejecting import Ejector
from proxy.guard.limiting import Limiter
from proxy.guard.traffic import Traffics
from proxy.telemetry.metrics import ProxyMetrics


@dataclass(frozen=True, slots=True)
class Guards:
    """What requests are held back by, and what is learnt from how they go.

    Attributes:
        traffics: bounds what is under way, what waits and what is sent again.
        ejector: has instances left alone that fail.
        limiter: lets so many through a second.
        metrics: counts.
    """

    traffics: Traffics
    ejector: Ejector
    limiter: Limiter
    metrics: ProxyMetrics

    def begin_period(self) -> None:
        """Compare instances, and measure retries anew; to be called every `PERIOD_S` seconds."""
        self.traffics.begin_period()
        self.ejector.begin_period()
        self.limiter.forget()
