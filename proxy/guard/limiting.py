"""Rate limits of requests: each client's, the service's at this proxy, and the network's."""

from collections.abc import Callable

from overlay.names import ServiceName
from overlay.rates import Bucket, Buckets
from proxy.errors import OverRate
from proxy.guard.shares import Shares
from proxy.telemetry.decisions import Decision


class Limiter:
    """Lets so many requests through a second as their services' definitions say.

    Args:
        shares: of the limits that all proxies have together.
        now: trio's clock.
        refused: told of each request that was not let through, for metrics.
    """

    def __init__(
        self,
        shares: Shares,
        now: Callable[[], float],
        refused: Callable[[ServiceName], None] = lambda _: None,
    ) -> None:
        self._shares = shares
        self._now = now
        self._refused = refused
        self._services: dict[ServiceName, Bucket] = {}
        self._clients: dict[ServiceName, Buckets] = {}

    async def admit(self, decision: Decision, client: str) -> None:
        """Let a request through; one that a later limit refuses counts for those before it.

        Raises:
            OverRate: it must come again later.
        """
        service, spec, now = decision.service, decision.spec, self._now()
        if spec.client_rate_limit is not None:
            buckets = self._clients.setdefault(service, Buckets())
            wait_s = buckets.take(client, spec.client_rate_limit, now)
            self._check(decision, "client_rate_limit", wait_s)
        if spec.rate_limit is not None:
            bucket = self._services.setdefault(service, Bucket())
            self._check(decision, "rate_limit", bucket.take(spec.rate_limit, now))
        if spec.global_rate_limit is not None:
            wait_s = await self._shares.take(service, spec.global_rate_limit)
            self._check(decision, "global_rate_limit", wait_s)

    def forget(self) -> None:
        """Forget what holds nobody back any more."""
        now = self._now()
        self._services = {s: b for s, b in self._services.items() if b.paid_until > now}
        for service, buckets in list(self._clients.items()):
            if not buckets.forget(now):
                del self._clients[service]
        self._shares.forget()

    def _check(self, decision: Decision, limit: str, wait_s: float) -> None:
        if wait_s > 0:
            self._refused(decision.service)
            raise OverRate(decision.service, limit, wait_s)
