"""Rate limits of requests: each client's, the service's at this proxy, and the network's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from overlay.names import ServiceName
from overlay.rates import Bucket, Buckets
from overlay.spec import RateLimit, ServiceSpec
from proxy.errors import OverRate
from proxy.guard.shares import Shares
from proxy.telemetry.decisions import Decision


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a request must wait, in seconds, and by which limit; none if that is empty."""

    limit: str = ""
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The rate limits of a service.

    Attributes:
        per_client: for each client of this proxy.
        per_proxy: for this proxy.
        in_all: for all proxies together.
    """

    per_client: RateLimit | None = None
    per_proxy: RateLimit | None = None
    in_all: RateLimit | None = None


class Counting(Protocol):
    """Counts requests against limits."""

    async def take(self, service: ServiceName, limits: Limits, client: str) -> Wait:
        """Count a request that is let through, or say how long it must wait.

        One that a later limit refuses counts for those before it.
        """
        ...

    def forget(self) -> None:
        """Forget what holds nobody back any more."""
        ...


class Rates:
    """Counts the requests of this proxy.

    Args:
        shares: of the limits that all proxies have together.
        now: trio's clock.
    """

    def __init__(self, shares: Shares, now: Callable[[], float]) -> None:
        self._shares = shares
        self._now = now
        self._services: dict[ServiceName, Bucket] = {}
        self._clients: dict[ServiceName, Buckets] = {}

    async def take(self, service: ServiceName, limits: Limits, client: str) -> Wait:
        """See `Counting`."""
        now, wait_s = self._now(), 0.0
        if limits.per_client is not None:
            buckets = self._clients.setdefault(service, Buckets())
            wait_s = buckets.take(client, limits.per_client, now)
            if wait_s > 0:
                return Wait("client_rate_limit", wait_s)
        if limits.per_proxy is not None:
            wait_s = self._services.setdefault(service, Bucket()).take(limits.per_proxy, now)
            if wait_s > 0:
                return Wait("rate_limit", wait_s)
        if limits.in_all is not None:
            wait_s = await self._shares.take(service, limits.in_all)
            if wait_s > 0:
                return Wait("global_rate_limit", wait_s)
        return Wait()

    def forget(self) -> None:
        """See `Counting`."""
        now = self._now()
        self._services = {s: b for s, b in self._services.items() if b.paid_until > now}
        for service, buckets in list(self._clients.items()):
            if not buckets.forget(now):
                del self._clients[service]
        self._shares.forget()


class Limiter:
    """Lets so many requests through a second as their services' definitions say.

    Args:
        rates: counts requests.
        refused: told of each request that was not let through, for metrics.
    """

    def __init__(
        self, rates: Counting, refused: Callable[[ServiceName], None] = lambda _: None
    ) -> None:
        self._rates = rates
        self._refused = refused

    async def admit(self, decision: Decision, client: str) -> None:
        """Let a request through.

        Raises:
            OverRate: it must come again later.
        """
        limits = _limits_of(decision.spec)
        if limits is None:
            return
        wait = await self._rates.take(decision.service, limits, client)
        if wait.limit:
            self._refused(decision.service)
            raise OverRate(decision.service, wait.limit, wait.for_s)

    def forget(self) -> None:
        """Forget what holds nobody back any more."""
        self._rates.forget()


def _limits_of(spec: ServiceSpec) -> Limits | None:
    limits = spec.client_rate_limit, spec.rate_limit, spec.global_rate_limit
    return None if limits == (None, None, None) else Limits(*limits)
