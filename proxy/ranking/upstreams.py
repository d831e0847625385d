"""What this proxy has learnt of each instance, and which of them a request may go to."""

from collections.abc import Iterable, Sequence
from random import Random

from overlay.balancing import Balancing
from overlay.names import ServiceName
from overlay.view import InstanceView, View
from proxy.ranking.limits import RttLimits
from proxy.ranking.policies import policy_named
from proxy.ranking.routing_table import BALANCING as ROUTED_BALANCING
from proxy.ranking.routing_table import ROUTED, RoutingTable
from proxy.ranking.selection import Candidate, Group, Key, Upstream, rtt_s, tiers

FAILED_FOR_S = 2.0
"""How long an instance that failed is left alone. A dead machine is out of the view by then; one
that only lost a connection comes back."""

MAX_GROUPS = 4096
"""Of services, times the limits that their callers have; the oldest are made anew past it."""

_DEFAULT = Balancing()


class Upstreams:
    """Instances, kept as long as they are in the view.

    Args:
        view: where they are.
        random: draws among them.
        routes: what is used instead of them, for some services.
    """

    def __init__(self, view: View, random: Random, routes: RoutingTable | None = None) -> None:
        self._view = view
        self._routes = RoutingTable() if routes is None else routes
        self._random = random
        self._upstreams: dict[Key, Upstream] = {}
        self._groups: dict[tuple[ServiceName, RttLimits], Group] = {}

    def group(
        self,
        service: ServiceName,
        revision: int,
        limits: RttLimits,
        balancing: Balancing | None = None,
    ) -> Group:
        """Return the instances of a service that requests with `limits` may go to."""
        instances: Sequence[InstanceView]
        if service in self._routes:
            instances, balancing = self._routes.instances(service, revision), ROUTED_BALANCING
        else:
            instances, balancing = self._view.instances(service), balancing or _DEFAULT
        known = self._groups.get((service, limits))
        if known is None or known.instances is not instances or known.revision != revision:
            return self._grouped(service, revision, limits, instances, balancing)
        if known.balancing is not balancing and known.balancing != balancing:
            return self._grouped(service, revision, limits, instances, balancing)
        return known

    def candidates(self, instances: Iterable[InstanceView], now: float) -> list[Candidate]:
        """Return `instances` with what is known of them at `now`, in trio's seconds."""
        return [self._candidate(instance, now) for instance in instances]

    def begin(self, instance: InstanceView) -> None:
        """Count a request that is about to be sent."""
        self._of(instance).in_flight += 1

    def end(self, instance: InstanceView, service_time_s: float | None, now: float) -> None:
        """Count its end; `service_time_s`, RTT included, is None where it was not answered."""
        upstream = self._upstreams.get(instance.key) or self._of(instance)
        before = upstream.in_flight
        upstream.in_flight -= 1
        if before >= instance.record.concurrency:  # full, until its owner says anew that it is not
            self._view.served_there(instance, before, upstream.in_flight)
        if service_time_s is not None:
            away_s = 0.0 if instance.local else instance.rtt_s or 0.0
            upstream.latency.observe(max(service_time_s - away_s, 0.0), now)

    def failed(self, instance: InstanceView, now: float, for_s: float = FAILED_FOR_S) -> None:
        """Leave the instance alone for `for_s` seconds, for every request of this proxy."""
        upstream = self._of(instance)
        upstream.failed_until = max(upstream.failed_until, now + for_s)

    def vouched(self, key: Key) -> None:
        """Take in that an instance's machine says now that it is ready.

        One request that ends badly says little about an instance that others wait for.
        """
        upstream = self._upstreams.get(key)
        if upstream is not None:
            upstream.failed_until = 0.0

    def prune(self) -> None:
        """Forget instances that are in no view any more and have nothing in flight."""
        there = {i.key for i in self._view.all_instances()} | set(self._routes.keys())
        gone = [k for k, u in self._upstreams.items() if k not in there and not u.in_flight]
        for key in gone:
            del self._upstreams[key]
        for name, limits in list(self._groups):
            if not self._view.instances(name) and name not in self._routes:
                del self._groups[name, limits]

    def _grouped(
        self,
        service: ServiceName,
        revision: int,
        limits: RttLimits,
        instances: Sequence[InstanceView],
        balancing: Balancing,
    ) -> Group:
        """Make the group anew; its policy goes on where it was if it still is the same."""
        before = self._groups.pop((service, limits), None)
        if before is not None and before.balancing == balancing:
            policy = before.policy
        else:
            policy = policy_named(balancing.name, self._random)
        all_of_them = [self._placed(instance, balancing) for instance in instances]
        near, far, suspects = tiers(all_of_them, revision=revision, limits=limits)
        made = Group(
            instances, tuple(all_of_them), revision, policy, balancing, near, far, suspects
        )
        if len(self._groups) >= MAX_GROUPS:
            del self._groups[next(iter(self._groups))]
        self._groups[service, limits] = made
        return made

    def _placed(self, instance: InstanceView, balancing: Balancing) -> Upstream:
        upstream = self._of(instance)
        upstream.instance, upstream.distance_s = instance, rtt_s(instance)
        if instance.owner == ROUTED:
            upstream.weight = self._routes.weight(instance)
        elif balancing.weights or upstream.weight != 1.0:
            peer = self._view.peer(instance.owner)
            upstream.weight = balancing.weights.get("" if peer is None else peer.host, 1.0)
        return upstream

    def _candidate(self, instance: InstanceView, now: float) -> Candidate:
        upstream = self._upstreams.get(instance.key)
        if upstream is None:
            return Candidate(instance, self._view.in_flight(instance))
        seen = upstream.seen(now)
        seen.instance = instance
        return seen

    def _of(self, instance: InstanceView) -> Upstream:
        key = instance.key
        upstream = self._upstreams.get(key)
        if upstream is None:
            name = str(instance.record.id)
            upstream = Upstream(
                name, instance=instance, elsewhere=self._view.in_flight, distance_s=rtt_s(instance)
            )
            self._upstreams[key] = upstream
        return upstream
