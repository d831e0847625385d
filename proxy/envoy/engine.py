"""Keeps Envoy's files in step with what the proxy knows, and the leases with what Envoy does.

A look, four times a second and when something changes: what Envoy has under way is counted on the
leases, what is wanted now is worked out from the view, and what differs is written. What leaves is
written as draining first (`loans.py`). A service gets its route when Envoy has its cluster, and
loses the route before the cluster (`served.py`).

Instances of other machines are their gateways' to pick (`elsewhere.py`), which count what is under
way there, so there is no lease and Envoy is told at once when one may not be used any more.
"""

from pathlib import Path

import structlog
import trio

from overlay.definitions import Definitions
from overlay.errors import PeerUnreachable
from overlay.names import PeerId, ServiceName
from overlay.records import InstanceState
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.tls import PeerTls
from overlay.view import View
from proxy.backend.roads import Roads
from proxy.choosing.starting import Starter
from proxy.envoy.admin import Admin, AdminUnreachable, Clusters
from proxy.envoy.bootstrap import Files, gateway_secrets, secret_message, secrets
from proxy.envoy.clusters import cluster_of, endpoints_of, proxy_cluster
from proxy.envoy.elsewhere import away, by_owner, gateway_of, obstacle_of
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front
from proxy.envoy.loans import UNHEARD_LOOKS, Loan, Phase
from proxy.envoy.mapping import MAX_SERVICES, nearness, obstacle, weight_of
from proxy.envoy.messages import resources
from proxy.envoy.process import EnvoyProcess
from proxy.envoy.routes import route_configuration
from proxy.envoy.served import Held, Served
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
        peer_tls: what it shows to other machines' gateways.
        tls: what it shows to the outside.
        envoy: is ended when it does not do what it is told.

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
        peer_tls: PeerTls,
        tls: EdgeTls | None,
        envoy: EnvoyProcess,
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
        self._peer_tls = peer_tls
        self._tls = tls
        self._envoy = envoy
        self._folder = Folder()
        self._services: dict[ServiceName, Served] = {}
        self._leaving: list[Served] = []
        self._versions = 0
        self._gateways: dict[PeerId, tuple[tuple[str, int], ...]] = {}
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
        return sorted(n for n, s in self._services.items() if s.known and s.mapped.serves)

    def wake(self) -> None:
        """Have it look at once."""
        self._news.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            leaving = any(h.loan.leaving for s in self._all() for h in s.held.values())
            with trio.move_on_after(LEAVING_S if leaving else LOOK_S):
                await self._news.wait()
                await trio.sleep(LEAVING_S)  # what changes together is taken together
            self._news = trio.Event()
            await self._look()

    def envoy_ended(self) -> None:
        """Take in that Envoy is gone, with all that it had under way."""
        for served in self._all():
            served.lost()
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
        self._cut()

    def _cut(self) -> None:
        """End what is under way to machines that are dead."""
        for owner in [one for one in self._gateways if not self._view.is_member(one)]:
            self._envoy.cut(self._gateways.pop(owner))

    def _count(self, clusters: Clusters) -> None:
        """Take in what Envoy says."""
        now = trio.current_time()
        passed_s, self._looked_at = now - self._looked_at, now
        for served in self._all():
            new = served.observe(clusters.get(served.mapped.cluster), passed_s)
            self._metrics.carried(served.name, new)
        for served in self._services.values():
            self._grow(served, now)

    def _grow(self, served: Served, now: float) -> None:
        """Have another instance started where all have as much to do as they take."""
        served.crowded = served.crowded + 1 if served.full() else 0
        if served.crowded >= CROWDED_LOOKS and served.grow_at <= now:
            served.grow_at = now + GROW_RETRY_S
            self._starter.begin(
                served.revision,
                limits_of(served.spec),
                why="all instances are full",
                exclude=frozenset(served.keys()),
                keep=True,
            )

    async def _give_back(self) -> None:
        """Return the leases on what Envoy has let go of, and forget what is over."""
        now = trio.current_time()
        for served in self._all():
            for key, held in list(served.held.items()):
                if held.lease.releasing:
                    held.loan.recall()
                if held.loan.unheard > UNHEARD_LOOKS:
                    log.error("envoy.deaf", service=served.name, instance=key[1])
                    self._envoy.kill()
                if held.loan.phase is Phase.RETURNED:
                    del served.held[key]
                    await held.give_back()
            if served.held or served.away:
                served.empty_since = now
        for name, served in list(self._services.items()):
            if now - served.empty_since > KEEP_S and served.over:
                del self._services[name]
                self._forget(served)
        for served in [one for one in self._leaving if one.over]:
            self._leaving.remove(served)
            self._forget(served)

    async def _want(self) -> None:
        """Lend what is to be served now, recall what is not."""
        wanted: set[ServiceName] = set()
        self.left = {}
        for name in self._warm()[:MAX_SERVICES]:
            revision = self._definitions.get(name)
            if revision is None or revision.revision.spec is None:
                continue
            spec = revision.revision.spec
            near = self._usable(name, revision, spec)
            if near is None:
                self.left[name] = "its instances are farther than they should be"
            elif why := self._obstacle(name, spec, near):
                self.left[name] = why
            else:
                wanted.add(name)
                await self._serve(name, revision, spec, near)
        for name, served in self._services.items():
            if name not in wanted:
                served.recall()
                served.away.clear()

    def _warm(self) -> list[ServiceName]:
        ready = InstanceState.READY
        there = {i.record.service for i in self._view.all_instances() if i.record.state is ready}
        return sorted(there, key=lambda name: (name not in self._services, name))

    def _usable(
        self, name: ServiceName, revision: SignedRevision, spec: ServiceSpec
    ) -> list[Upstream] | None:
        """Return the instances that requests may go to; None where all are over the soft limit."""
        group = self._upstreams.group(
            name, revision.revision.generation, limits_of(spec), spec.policy
        )
        if group.far and not group.near:
            return None
        return [u for u in group.near if weight_of(spec, u.weight)] or list(group.near)

    def _obstacle(self, name: ServiceName, spec: ServiceSpec, near: list[Upstream]) -> str:
        if name in self._routes:
            return "it is routed by hand"
        owners = list(by_owner(near))
        elsewhere = obstacle_of(spec, owners, self._gateway, self._view.host_of)
        return obstacle(spec) or elsewhere

    def _gateway(self, owner: PeerId) -> tuple[tuple[str, int], ...]:
        """Return where Envoy finds a machine's gateway; nothing where that does not lead there."""
        return () if self._roads.is_carried(owner) else gateway_of(self._view.peer(owner))

    async def _serve(
        self, name: ServiceName, revision: SignedRevision, spec: ServiceSpec, near: list[Upstream]
    ) -> None:
        """Put a service into Envoy's hands."""
        there = by_owner(near)
        records = ((owner, self._view.peer(owner)) for owner in there)
        pins = {owner: record.certificate for owner, record in records if record is not None}
        served = self._services.get(name)
        if served is None or not served.fits(spec, pins):
            served = self._begin(name, revision, spec, pins)
        served.revision = revision
        before = served.away
        served.away = {}
        for owner, upstreams in there.items():
            made = away(revision, spec, self._gateway(owner), upstreams, self._view.in_flight)
            if owner in before:
                made.total, made.active = before[owner].total, before[owner].active
            served.away[owner] = made
            self._gateways[owner] = made.machine.addresses
        here = [upstream for upstream in near if upstream.instance.local]
        async with trio.open_nursery() as nursery:
            for upstream in here:
                nursery.start_soon(self._lend, served, upstream)
        served.recall(but={upstream.instance.key for upstream in here})

    def _begin(
        self,
        name: ServiceName,
        revision: SignedRevision,
        spec: ServiceSpec,
        pins: dict[PeerId, str],
    ) -> Served:
        """Have a service served by a cluster of its own; the one that it had is left."""
        self._versions += 1
        made = Served(name, revision, spec, self._versions, pins=pins)
        before, self._services[name] = self._services.get(name), made
        if before is not None:
            made.grow_at = before.grow_at
            before.recall()
            self._leaving.append(before)
        return made

    async def _lend(self, served: Served, upstream: Upstream) -> None:
        """Put an instance into Envoy's hands, if there is a lease on it."""
        key, spec = upstream.instance.key, served.spec
        weight = (weight_of(spec, upstream.weight) or 1) * nearness(spec, 0.0)
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
        loan = Loan(key, served.name, road.lease.address, weight)
        served.held[key] = Held.lend(loan, road.lease, road.holder, self.wake)

    def _write(self) -> None:
        """Write what is new; endpoints before their cluster, the cluster before the routes."""
        version = self._folder.next_version()
        peer = self._peer_tls
        found = gateway_secrets(peer.leaf, self._files.key, peer.authorities)
        if self._tls is not None:
            self._tls.context()  # reads the files again where they have changed
            found += secrets(self._tls.pems, self._tls.authorities)
        for secret in found:
            self._folder.write(self._files.secret(secret["name"]), secret_message(version, secret))
        mapped = [served.mapped for served in self._all()]
        for service in mapped:
            said = endpoints_of(service, self._files.proxy)
            kind = "config.endpoint.v3.ClusterLoadAssignment"
            file = self._files.endpoints(service.name, service.version)
            self._folder.write(file, resources(kind, version, [said]))
        routed = [served.mapped for served in self._services.values() if served.known]
        for front in self._fronts:
            said = route_configuration(front, routed)
            kind = "config.route.v3.RouteConfiguration"
            self._folder.write(self._files.routes(front.name), resources(kind, version, [said]))
        files = self._files
        clusters = [
            cluster_of(s, files.endpoints(s.name, s.version), files.credentials) for s in mapped
        ]
        clusters.append(proxy_cluster(files.proxy))
        kind = "config.cluster.v3.Cluster"
        self._folder.write(files.clusters, resources(kind, version, clusters))

    def _forget(self, served: Served) -> None:
        self._folder.remove(self._files.endpoints(served.name, served.version))

    def _all(self) -> list[Served]:
        """Return what is served, and what is on its way back."""
        return [*self._services.values(), *self._leaving]
