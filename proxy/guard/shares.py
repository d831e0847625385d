"""This proxy's shares of global rate limits: how many requests it may let through right now.

A share is asked for when the last one is used up or too old (`overlay/quota.py` says of whom, and
how exact that is), once however many requests wait for it. Its size is a tenth of a second's worth,
so that a busy proxy asks some ten times a second, and later where it was given less than that.

The cores are `Share` and `overlay/rates.py`; `Shares` asks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil

import structlog
import trio

from overlay.calls import Caller
from overlay.errors import MyxoError
from overlay.names import PeerId, ServiceName
from overlay.quota import MOST_AT_ONCE, QUOTA_PROTOCOL, VALID_S, Quota, QuotaRequest
from overlay.rates import Bucket
from overlay.records import Role
from overlay.rendezvous import ranked
from overlay.spec import RateLimit
from overlay.view import View

ASK_TIMEOUT_S = 0.5
"""Requests wait for the answer; without one the proxy goes by its own part of the rate."""

PART = 0.1
"""Of a second's worth, in one share."""

Ask = Callable[[ServiceName, int], Awaitable[Quota | None]]
"""Asks the allocator that counts; None is no answer."""

log = structlog.get_logger()


@dataclass(slots=True)
class Share:
    """What is left of a service's share.

    Attributes:
        left: requests.
        until: when it is void.
        refused_until: more is not asked for before: there was less than was wanted.
        alone_until: nobody answered, and nobody is asked before.
    """

    left: int = 0
    until: float = 0.0
    refused_until: float = 0.0
    alone_until: float = 0.0

    def take(self, now: float) -> bool:
        """Use one, if there is one."""
        if self.left <= 0 or now >= self.until:
            return False
        self.left -= 1
        return True

    def give(self, quota: Quota | None, limit: RateLimit, asked_at: float, now: float) -> None:
        """Take in an answer; it was counted after `asked_at`, and is valid from then."""
        if quota is None:
            self.alone_until = now + VALID_S
            return
        self.left, self.until = quota.granted, asked_at + VALID_S
        if quota.granted < wanted(limit):
            self.refused_until = now + max(quota.wait_s, min(PART, limit.burst / limit.per_s))


def wanted(limit: RateLimit) -> int:
    """Return how many requests to ask for."""
    return min(MOST_AT_ONCE, limit.burst, max(1, ceil(limit.per_s * PART)))


class Shares:
    """The shares of one proxy.

    Args:
        ask: asks for more.
        proxies: returns how many proxies there are, this one included.
    """

    def __init__(self, ask: Ask, proxies: Callable[[], int]) -> None:
        self._ask = ask
        self._proxies = proxies
        self._shares: dict[ServiceName, Share] = {}
        self._asking: dict[ServiceName, trio.Event] = {}
        self._own: dict[ServiceName, Bucket] = {}

    async def take(self, service: ServiceName, limit: RateLimit) -> float:
        """Let one request through and return 0.0, or return the seconds until one may be."""
        share = self._shares.setdefault(service, Share())
        while not share.take(trio.current_time()):
            now = trio.current_time()
            if share.refused_until > now:
                return share.refused_until - now
            if share.alone_until > now:
                return self._own_part(service, limit)
            asking = self._asking.get(service)
            if asking is not None:
                await asking.wait()
            else:
                await self._more(service, share, limit)
        return 0.0

    def forget(self) -> None:
        """Forget what holds no more."""
        now = trio.current_time()
        for service, share in list(self._shares.items()):
            if (
                max(share.until, share.refused_until, share.alone_until) < now
                and service not in self._asking
            ):
                del self._shares[service]
        for service, bucket in list(self._own.items()):
            if bucket.paid_until < now:
                del self._own[service]

    async def _more(self, service: ServiceName, share: Share, limit: RateLimit) -> None:
        """Ask for another share."""
        asked_at, answered = trio.current_time(), self._asking.setdefault(service, trio.Event())
        try:
            quota = await self._ask(service, wanted(limit))
            share.give(quota, limit, asked_at, trio.current_time())
        finally:
            del self._asking[service]
            answered.set()

    def _own_part(self, service: ServiceName, limit: RateLimit) -> float:
        """Let one through by this proxy's part of the rate, as nobody counts for all."""
        proxies = max(1, self._proxies())
        part = RateLimit(per_s=limit.per_s / proxies, burst=max(1, limit.burst // proxies))
        return self._own.setdefault(service, Bucket()).take(part, trio.current_time())


class Counter:
    """Asks the allocator that counts a service's requests.

    Args:
        view: which allocators there are.
        calls: makes the calls.
    """

    def __init__(self, view: View, calls: Caller) -> None:
        self._view = view
        self._calls = calls
        self._seen = -1
        self._allocators: list[PeerId] = []

    def proxies(self) -> int:
        """Return how many proxies there are, this one included."""
        return 1 + len(self._view.peers(Role.PROXY))

    async def ask(self, service: ServiceName, wanted: int) -> Quota | None:
        """Return the share that may be used; None if nobody says."""
        if self._seen != self._view.generation:
            self._seen = self._view.generation
            self._allocators = [p.peer_id for p in self._view.peers(Role.ALLOCATOR)]
        if not self._allocators:
            return None
        request = QuotaRequest(service=service, wanted=wanted)
        try:
            return await self._calls.call(
                ranked(service, self._allocators)[0],
                QUOTA_PROTOCOL,
                request,
                Quota,
                timeout_s=ASK_TIMEOUT_S,
            )
        except MyxoError as exc:
            log.info("quota.unknown", service=service, error=str(exc))
            return None
