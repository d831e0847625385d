"""Outlier ejection (`outliers.py`) of the instances that this proxy sends requests to."""

from collections import defaultdict
from collections.abc import Callable

import structlog

from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceState
from overlay.spec import ServiceSpec
from overlay.view import InstanceView, View
from proxy.guard.outliers import Outcomes, may_eject, outlying
from proxy.ranking.upstreams import Upstreams

Key = tuple[PeerId, InstanceId]

log = structlog.get_logger()


class Ejector:
    """Watches how instances answer, and has those left alone that fail.

    Args:
        view: which instances there are.
        upstreams: is told whom to leave alone.
        now: trio's clock.
        ejected: told of each ejection, for metrics.
    """

    def __init__(
        self,
        view: View,
        upstreams: Upstreams,
        now: Callable[[], float],
        ejected: Callable[[ServiceName], None] = lambda _: None,
    ) -> None:
        self._view = view
        self._upstreams = upstreams
        self._now = now
        self._ejected = ejected
        self._outcomes: dict[Key, Outcomes] = {}

    def answered(self, instance: InstanceView, spec: ServiceSpec, *, bad: bool) -> None:
        """Take in an answer, which may be an error."""
        if bad:
            self.failed(instance, spec)
        elif spec.eject_after:
            outcomes = self._outcomes.get(instance.key) or self._of(instance.key)
            outcomes.succeeded()

    def failed(self, instance: InstanceView, spec: ServiceSpec) -> None:
        """Take in that a request was answered by an error, or not at all."""
        if not spec.eject_after:
            return
        outcomes = self._of(instance.key)
        outcomes.failed()
        if outcomes.row % spec.eject_after == 0:  # looked at anew only after as many again
            self._eject(instance, f"{outcomes.row} requests in a row failed")

    def begin_period(self) -> None:
        """Eject those that did far worse than others lately, and begin another period."""
        periods: dict[ServiceName, dict[Key, tuple[int, int]]] = defaultdict(dict)
        there: dict[Key, InstanceView] = {}
        for instance in self._view.all_instances():
            outcomes = self._outcomes.get(instance.key)
            if outcomes is not None:
                there[instance.key] = instance
                periods[instance.record.service][instance.key] = outcomes.good, outcomes.bad
        for counts in periods.values():
            for key in outlying(counts):
                self._eject(there[key], "it failed far more often than others")
        self._outcomes = {key: self._outcomes[key] for key in there}
        for outcomes in self._outcomes.values():
            outcomes.begin_period()

    def _eject(self, instance: InstanceView, why: str) -> None:
        """Leave the instance alone, if enough others are left."""
        now, outcomes = self._now(), self._of(instance.key)
        peers = [
            other.key
            for other in self._view.instances(instance.record.service)
            if other.record.state is InstanceState.READY
            and other.record.revision == instance.record.revision
            and not other.suspect
        ]
        ejected = sum(key in self._outcomes and self._outcomes[key].ejected(now) for key in peers)
        if outcomes.ejected(now) or not may_eject(len(peers), ejected):
            return
        outcomes.eject(now)
        self._upstreams.failed(instance, now, outcomes.until - now)
        self._ejected(instance.record.service)
        log.warning(
            "instance.ejected",
            service=instance.record.service,
            id=instance.record.id,
            why=why,
            for_s=outcomes.until - now,
        )

    def _of(self, key: Key) -> Outcomes:
        outcomes = self._outcomes.get(key)
        if outcomes is None:
            outcomes = self._outcomes[key] = Outcomes()
        return outcomes
