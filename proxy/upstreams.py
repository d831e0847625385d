"""What this proxy has learnt of each instance: load, service time, recent failures."""

from collections.abc import Iterable
from dataclasses import dataclass

from overlay.names import InstanceId, PeerId
from overlay.view import InstanceView, View
from proxy.selection import Candidate

FAILED_FOR_S = 2.0
"""How long an instance that failed is left alone. A dead machine is out of the view by then; one
that only lost a connection comes back."""

SERVICE_TIME_ALPHA = 0.2
"""Weight of the newest sample in the smoothed service time: ten requests forget a change."""

Key = tuple[PeerId, InstanceId]


@dataclass(slots=True)
class _Stats:
    in_flight: int = 0
    service_time_s: float = 0.0
    failed_until: float = 0.0


class Upstreams:
    """Statistics by instance, kept as long as the instance is in the view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stats: dict[Key, _Stats] = {}

    def candidates(self, instances: Iterable[InstanceView], now: float) -> list[Candidate]:
        """Return `instances` with what is known of them at `now`, in trio's seconds."""
        return [self._candidate(instance, now) for instance in instances]

    def begin(self, instance: InstanceView) -> None:
        """Count a request that is about to be sent."""
        self._of(instance.key).in_flight += 1

    def end(self, instance: InstanceView, service_time_s: float | None) -> None:
        """Count its end; `service_time_s` is None where it was not answered."""
        stats = self._of(instance.key)
        stats.in_flight -= 1
        if service_time_s is not None:
            old = stats.service_time_s
            step = SERVICE_TIME_ALPHA * (service_time_s - old)
            stats.service_time_s = old + step if old else service_time_s

    def failed(self, instance: InstanceView, now: float, for_s: float = FAILED_FOR_S) -> None:
        """Leave the instance alone for `for_s` seconds, for every request of this proxy."""
        stats = self._of(instance.key)
        stats.failed_until = max(stats.failed_until, now + for_s)

    def prune(self) -> None:
        """Forget instances that are in no view any more and have nothing in flight."""
        there = {i.key for i in self._view.all_instances()}
        for key in [k for k, s in self._stats.items() if k not in there and not s.in_flight]:
            del self._stats[key]

    def _candidate(self, instance: InstanceView, now: float) -> Candidate:
        stats = self._stats.get(instance.key)
        elsewhere = self._view.in_flight(instance)
        if stats is None:
            return Candidate(instance, elsewhere)
        return Candidate(
            instance,
            max(stats.in_flight, elsewhere),
            stats.service_time_s,
            failed=stats.failed_until > now,
        )

    def _of(self, key: Key) -> _Stats:
        stats = self._stats.get(key)
        if stats is None:
            stats = self._stats[key] = _Stats()
        return stats
