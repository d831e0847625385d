"""Counts a service's requests for its global rate limit, where this allocator is whom proxies ask.

`Quotas.take` is pure: the clock's value comes in.
"""

from collections.abc import Callable

import trio

from overlay.calls import CallRefused
from overlay.names import PeerId, ServiceName
from overlay.quota import Quota, QuotaRequest
from overlay.rates import Bucket
from overlay.revision import SignedRevision

MAX_SERVICES = 10_000
"""As many as a network defines; the one that was asked for first is counted anew past it."""


class Quotas:
    """The global rate limits that are counted here.

    Args:
        known: returns the newest revision of a service that this machine has heard of.
    """

    def __init__(self, known: Callable[[ServiceName], SignedRevision | None]) -> None:
        self._known = known
        self._buckets: dict[ServiceName, Bucket] = {}

    def take(self, request: QuotaRequest, now: float) -> Quota | None:
        """Return what a proxy may let through; None if there is no limit that is known here."""
        revision = self._known(request.service)
        spec = None if revision is None else revision.revision.spec
        limit = None if spec is None else spec.global_rate_limit
        if limit is None:
            return None
        bucket = self._buckets.get(request.service)
        if bucket is None:
            if len(self._buckets) >= MAX_SERVICES:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[request.service] = Bucket()
        granted = bucket.take_up_to(request.wanted, limit, now)
        return Quota(granted=granted, wait_s=0.0 if granted else bucket.wait_s(limit, now))

    async def answer(self, _: PeerId, request: QuotaRequest) -> Quota:
        """Answer a quota call.

        Raises:
            CallRefused: the service has no global limit that is known here.
        """
        quota = self.take(request, trio.current_time())
        if quota is None:
            raise CallRefused("no_limit", f"{request.service} has no global rate limit here")
        return quota
