"""Rate limits: so many a second on average, and so many at once.

The generic cell rate algorithm (ITU-T I.371; Envoy's and nginx's buckets let the same through): of
each limit one number is kept, the time at which the requests so far are paid for at the rate. A
request is let through if that is not further ahead of now than the burst is worth.

Pure: `now` in seconds of any clock comes in.
"""

from dataclasses import dataclass, field

from overlay.spec import RateLimit

MAX_CLIENTS = 10_000
"""Clients that one limit tells apart. One more takes the place of whoever was seen least lately:
it begins anew, with a burst."""


@dataclass(slots=True)
class Bucket:
    """What one limit has let through.

    Attributes:
        paid_until: when what was let through is paid for.
    """

    paid_until: float = float("-inf")

    def take(self, limit: RateLimit, now: float) -> float:
        """Let one through and return 0.0, or return the seconds until one may be.

        Args:
            limit: how much; it may change between calls.
            now: the time.
        """
        return 0.0 if self.take_up_to(1, limit, now) else self.wait_s(limit, now)

    def take_up_to(self, wanted: int, limit: RateLimit, now: float) -> int:
        """Let as many through as there may be, `wanted` at the most; return how many."""
        step_s = 1.0 / limit.per_s
        paid_until = max(self.paid_until, now)
        ahead_s = paid_until - now
        free = int((limit.burst * step_s - ahead_s) / step_s + 1e-9)
        taken = max(0, min(wanted, free))
        if taken:
            self.paid_until = paid_until + taken * step_s
        return taken

    def wait_s(self, limit: RateLimit, now: float) -> float:
        """Return the seconds until one may be let through."""
        return max(0.0, self.paid_until - now - (limit.burst - 1) / limit.per_s)


@dataclass(slots=True)
class Buckets:
    """A bucket for each client, of a bounded number of them."""

    _by_client: dict[str, Bucket] = field(default_factory=dict)

    def take(self, client: str, limit: RateLimit, now: float) -> float:
        """Let one of `client`'s through and return 0.0, or return the seconds until one may be."""
        bucket = self._by_client.pop(client, None)
        if bucket is None:
            bucket = Bucket()
            if len(self._by_client) >= MAX_CLIENTS:
                del self._by_client[next(iter(self._by_client))]
        self._by_client[client] = bucket  # the last of all: the first is whom to forget
        return bucket.take(limit, now)

    def forget(self, now: float) -> int:
        """Forget those whose requests are all paid for; return how many are left."""
        self._by_client = {c: b for c, b in self._by_client.items() if b.paid_until > now}
        return len(self._by_client)
