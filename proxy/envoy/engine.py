"""Keeps Envoy's files in step with what the proxy knows, and the leases with what Envoy does.

A look, four times a second and when something changes: what Envoy has under way is counted on the
leases, what is wanted now is worked out from the view, and what differs is written. What leaves is
written as draining first (`loans.py`). A service gets its route when Envoy has its cluster, and
loses the route before the cluster.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from overlay.definitions import Definitions
from overlay.errors import PeerUnreachable
from overlay.names import ServiceName
from overlay.records import InstanceState
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import View
from proxy.backend.leases import Lease, LeaseHolder
from proxy.backend.roads import Roads
from proxy.choosing.starting import Starter
from proxy.envoy.admin import PROXY, Admin, AdminUnreachable, Clusters
from proxy.envoy.bootstrap import Files, secrets, secrets_message
from proxy.envoy.clusters import cluster_of, endpoints_of, proxy_cluster
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front
from proxy.envoy.loans import UNHEARD_LOOKS, Key, Loan, Phase, crowded
from proxy.envoy.mapping import MAX_SERVICES, Mapped, obstacle, weight_of
from proxy.envoy.messages import resources
from proxy.envoy.routes import cluster_name, route_configuration
from proxy.frontend.edge_tls import EdgeTls
from proxy.ranking.limits import limits_of
from proxy.ranking.routing_table import RoutingTable
from proxy.ranking.selection import Upstream
from proxy.ranking.upstreams import Upstreams
from proxy.telemetry.metrics import ProxyMetrics

LOOK_S = 0.25
LEAVING_S = 0.05
"""Between two looks; the shorter while instances are on their way back, as somebody waits."""

CROWDED_LOOKS = 2
"""In a row, after which another instance is started: a burst is over by then."""

GROW_RETRY_S = 1.0
"""After a start was begun for a service, until the next one is."""

KEEP_S = 60.0
"""A cluster is kept after its last instance: the next one is there often, and requests that went to
the proxy through it may still wait."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Held:
    """A lease in Envoy's hands."""

    loan: Loan
    lease: Lease
    holder: LeaseHolder


@dataclass(slots=True)
class _Served:
    """A service that Envoy knows, or is to know.

    Attributes:
        empty_since: it had an instance until then.
        waiting: requests that went through its cluster to the proxy, and have not ended.
        crowded: looks in a row in which all instances were full.
        grow_at: nothing more is started before.
        known: Envoy has its cluster.
    """

    revision: SignedRevision
    spec: ServiceSpec
    held: dict[Key, _Held] = field(default_factory=dict)
    empty_since: float = 0.0
    waiting: int = 0
    crowded: int = 0
    grow_at: float = 0.0
    known: bool = False

    def mapped(self, name: ServiceName) -> Mapped:
        """Return what Envoy is to be told."""
        endpoints = (one.loan.endpoint() for one in self.held.values())
        return Mapped(name, self.spec, tuple(e for e in endpoints if e is not None))


class Engine:
    """Tells Envoy what to do while `run` runs.

    Args:
        view: which instances there are.
        definitions: what services are.
        upstreams: which of them may be used.
        roads: how they are reached; keeps the leases.
        starter: starts more where all are full.
        routes: services that are routed by hand, which stay the proxy's.
        metrics: counts what Envoy served.
        files: what Envoy reads.
        fronts: where it listens.
        admin: asks it.
        tls: what it shows to the outside.
        restart: ends it, when it does not do what it is told.

    Attributes:
        left: services with warm instances that the proxy serves itself, and why.
    """

    def __init__(
        self,
        view: View,
        definitions: Definitions,
        upstreams: Upstreams,
        roads: Roads,
        starter: Starter,
        routes: RoutingTable,
        metrics: ProxyMetrics,
        files: Files,
        fronts: tuple[Front, ...],
        admin: Admin,
        tls: EdgeTls | None,
        restart: Callable[[], None],
    ) -> None:
        self._view = view
        self._definitions = definitions
        self._upstreams = upstreams
        self._roads = roads
        self._starter = starter
        self._routes = routes
        self._metrics = metrics
        self._files = files
        self._fronts = fronts
        self._admin = admin
        self._tls = tls
        self._restart = restart
        self._folder = Folder()
        self._services: dict[ServiceName, _Served] = {}
        self._news = trio.Event()
        self._looked_at = trio.current_time()
        self.left: dict[ServiceName, str] = {}
        self._write()

    @property
    def admin_socket(self) -> Path:
        """Where Envoy itself can be asked."""
        return self._files.admin

    @property
    def served(self) -> list[ServiceName]:
        """Services that Envoy has routes to."""
        return sorted(n for n, s in self._services.items() if s.known and s.mapped(n).serves)

    def wake(self) -> None:
        """Have it look at once."""
        self._news.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            leaving = any(held.loan.leaving for held in self._all_held())
            with trio.move_on_after(LEAVING_S if leaving else LOOK_S):
                await self._news.wait()
                await trio.sleep(LEAVING_S)  # what changes together is taken together
            self._news = trio.Event()
            await self._look()

    def envoy_ended(self) -> None:
        """Take in that Envoy is gone, with all that it had under way."""
        for served in self._services.values():
            served.known = False
            for held in served.held.values():
                held.loan.lost()
                held.holder.count(held.lease, 0, 0, 0.0)
        self.wake()

    async def _look(self) -> None:
        try:
            clusters = await self._admin.clusters()
        except AdminUnreachable as exc:
            log.debug("envoy.silent", reason=str(exc))
        else:
            self._count(clusters)
        await self._give_back()
        await self._want()
        self._write()

    def _count(self, clusters: Clusters) -> None:
        """Take in what Envoy says."""
        now = trio.current_time()
        passed_s, self._looked_at = now - self._looked_at, now
        for name, served in self._services.items():
            seen = clusters.get(cluster_name(name))
            served.known = seen is not None
            served.waiting = seen[PROXY].active if seen and PROXY in seen else 0
            for held in served.held.values():
                new = held.loan.observe((seen or {}).get(held.loan.address))
                active = held.loan.active
                # What was under way, over the time: the sum of how long requests took (Little).
                held.holder.count(held.lease, active, new, active * passed_s)
                self._metrics.carried(name, new)
            self._grow(served, now)

    def _grow(self, served: _Served, now: float) -> None:
        """Have another instance started where all have as much to do as they take."""
        loans = {key: held.loan for key, held in served.held.items()}
        served.crowded = served.crowded + 1 if crowded(loans, served.spec.concurrency) else 0
        if served.crowded >= CROWDED_LOOKS and served.grow_at <= now:
            served.grow_at = now + GROW_RETRY_S
            self._starter.begin(
                served.revision,
                limits_of(served.spec),
                why="all instances are full",
                exclude=frozenset(loans),
                keep=True,
            )

    async def _give_back(self) -> None:
        """Return the leases on what Envoy has let go of."""
        for name, served in list(self._services.items()):
            for key, held in list(served.held.items()):
                if held.lease.releasing:
                    held.loan.recall()
                if held.loan.unheard > UNHEARD_LOOKS:
                    log.error("envoy.deaf", service=name, instance=key[1])
                    self._restart()
                if held.loan.phase is Phase.RETURNED:
                    del served.held[key]
                    await held.holder.give_back(held.lease)
            now = trio.current_time()
            if served.held:
                served.empty_since = now
            elif now - served.empty_since > KEEP_S and not served.waiting:
                del self._services[name]
                self._folder.remove(self._files.endpoints(name))

    async def _want(self) -> None:
        """Lend what is to be served now, recall what is not."""
        wanted: dict[ServiceName, set[Key]] = {}
        self.left = {}
        for name in self._warm()[:MAX_SERVICES]:
            revision = self._definitions.get(name)
            if revision is None or revision.revision.spec is None:
                continue
            spec = revision.revision.spec
            usable = self._usable(name, revision, spec)
            why = self._obstacle(name, spec, usable)
            if why:
                self.left[name] = why
                continue
            wanted[name] = {upstream.instance.key for upstream in usable}
            served = self._services.setdefault(name, _Served(revision, spec))
            served.revision, served.spec = revision, spec
            async with trio.open_nursery() as nursery:
                for upstream in usable:
                    nursery.start_soon(self._lend, name, served, upstream)
        for name, served in self._services.items():
            for key, held in served.held.items():
                if key not in wanted.get(name, ()):
                    held.loan.recall()

    def _warm(self) -> list[ServiceName]:
        ready = InstanceState.READY
        there = {i.record.service for i in self._view.all_instances() if i.record.state is ready}
        return sorted(there, key=lambda name: (name not in self._services, name))

    def _usable(
        self, name: ServiceName, revision: SignedRevision, spec: ServiceSpec
    ) -> list[Upstream]:
        """Return the instances that requests may go to: near ones, else those over the limit."""
        group = self._upstreams.group(name, revision.revision.number, limits_of(spec), spec.policy)
        best = group.near or group.far
        return [u for u in best if weight_of(spec, u.weight)] or list(best)

    def _obstacle(self, name: ServiceName, spec: ServiceSpec, usable: Iterable[Upstream]) -> str:
        if name in self._routes:
            return "it is routed by hand"
        if not all(upstream.instance.local for upstream in usable):
            return "it has instances on other machines"
        return obstacle(spec)

    async def _lend(self, name: ServiceName, served: _Served, upstream: Upstream) -> None:
        """Put an instance into Envoy's hands, if there is a lease on it."""
        key, weight = upstream.instance.key, weight_of(served.spec, upstream.weight) or 1
        held = served.held.get(key)
        if held is not None:
            held.loan.weight = weight
            if not held.lease.releasing:
                held.loan.resume()
            return
        try:
            road = await self._roads.to(upstream.instance)
        except PeerUnreachable:
            return
        if road.lease is None or road.holder is None or road.lease.releasing:
            return
        loan = Loan(key, name, road.lease.address, weight)
        road.holder.lend(road.lease, self.wake)
        served.held[key] = _Held(loan, road.lease, road.holder)

    def _write(self) -> None:
        """Write what is new; endpoints before their cluster, the cluster before the routes."""
        version = self._folder.next_version()
        if self._tls is not None:
            self._tls.context()  # reads the files again where they have changed
            found = secrets(self._tls.pems, self._tls.authorities)
            self._folder.write(self._files.secrets, secrets_message(version, found))
        mapped = {name: served.mapped(name) for name, served in self._services.items()}
        for name, service in mapped.items():
            said = endpoints_of(service, self._files.proxy)
            kind = "config.endpoint.v3.ClusterLoadAssignment"
            self._folder.write(self._files.endpoints(name), resources(kind, version, [said]))
        routed = [s for name, s in mapped.items() if self._services[name].known]
        for front in self._fronts:
            said = route_configuration(front, routed)
            kind = "config.route.v3.RouteConfiguration"
            self._folder.write(self._files.routes(front.name), resources(kind, version, [said]))
        clusters = [cluster_of(s, self._files.endpoints(s.name)) for s in mapped.values()]
        clusters.append(proxy_cluster(self._files.proxy))
        kind = "config.cluster.v3.Cluster"
        self._folder.write(self._files.clusters, resources(kind, version, clusters))

    def _all_held(self) -> Iterable[_Held]:
        for served in self._services.values():
            yield from served.held.values()
