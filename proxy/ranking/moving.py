"""When a better instance is started although there is one: over the soft limit, or in doubt.

An instance over the soft RTT limit serves on, and a better one takes over when it is ready. RTTs
are noisy and starts cost, so three things must come together: every request of a while met the
breach, in the smoothed RTT and in the newest sample; the machine that would take over is within the
limit with all its variation; and it is nearer by a third and twice its variation. (The variation of
the old one is no help: it is largest just when its RTT has truly changed.) After an attempt there
is a pause, whatever came of it.
A machine that membership suspects is treated alike: chosen only where there is no other, it may be
dead, and whoever starts another then does not wait for the verdict first.

Pure: what requests met and the time in, whether to look for a better machine out.
"""

from dataclasses import dataclass, field

from overlay.names import ServiceName
from overlay.view import Distance
from proxy.ranking.placement import Site

BREACH_S = 1.0
"""How long requests must meet nothing better: a smoothed RTT does not stay over by one sample."""

SUSPECT_S = 0.3
"""A suspect that is alive refutes within a few probes; one that is dead is declared so in 2 s."""

GAP_S = 30.0
"""A breach that no request met for so long is a new one when it is met again."""

WORTH = 1 / 3
"""Of the RTT, so much must be saved: two equally long links differ by less even when their samples
scatter by 40 %."""

RETRY_S = 10.0
"""Between two attempts for one service: at most six needless instances a minute, which idle out."""

MAX_SERVICES = 4096
"""Services in breach at once; past it the oldest starts anew."""


@dataclass(slots=True)
class _Breach:
    since: float
    last: float
    try_at: float = 0.0


@dataclass(slots=True)
class Breaches:
    """Since when the requests of each service meet nothing better."""

    _breaches: dict[ServiceName, _Breach] = field(default_factory=dict)

    def met(self, service: ServiceName, now: float, *, suspect: bool) -> bool:
        """Take in that a request had to use a bad instance; return whether to look for a better.

        If so, it is not said again for `RETRY_S`.
        """
        breach = self._breaches.get(service)
        if breach is None:
            if len(self._breaches) >= MAX_SERVICES:
                del self._breaches[next(iter(self._breaches))]
            breach = self._breaches[service] = _Breach(now, now)
        if now - breach.last > GAP_S:
            breach.since = now
        breach.last = now
        if now < breach.try_at or now - breach.since < (SUSPECT_S if suspect else BREACH_S):
            return False
        breach.try_at = now + RETRY_S
        return True

    def ended(self, service: ServiceName, now: float) -> None:
        """Take in that a request was served well; the pause after an attempt holds on."""
        breach = self._breaches.get(service)
        if breach is not None:
            if breach.try_at <= now:
                del self._breaches[service]
            else:
                breach.since = now


def is_over(distance: Distance | None, latest_s: float | None, soft_s: float) -> bool:
    """Return whether an instance's machine is over the soft limit, and not by one sample alone.

    Args:
        distance: how far it is; None is not known, which is over.
        latest_s: the newest sample, if there is one: after a spike it is small again long before
            the smoothed RTT is.
        soft_s: the limit.
    """
    if distance is None:
        return True
    return distance.rtt_s > soft_s and (latest_s is None or latest_s > soft_s)


def is_clearly_better(site: Site, current: Distance | None, soft_s: float) -> bool:
    """Return whether a machine is within the soft limit, and nearer by more than noise."""
    there = site.allocator.distance
    if site.allocator.local:
        return True
    if there is None or there.rtt_s + there.error_s > soft_s:
        return False
    if current is None:
        return True
    return current.rtt_s - there.rtt_s > WORTH * current.rtt_s + 2 * there.error_s
