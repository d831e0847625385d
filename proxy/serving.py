"""What answers requests in one process, the daemon or a worker, wired together."""

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry

from overlay.advertising import system_hostname
from overlay.calls import Caller as Calls
from overlay.definitions import Definitions
from overlay.deputy import own_deputy
from overlay.http.carried import MAX_CARRIED
from overlay.http.connection import Limits
from overlay.http.gateway import Carry
from overlay.identity import Identity
from overlay.leases import Hello, Welcome
from overlay.names import PeerId, ServiceName
from overlay.signed import Signed
from overlay.tls import PeerTls
from overlay.view import View
from proxy.backend.leases import LeaseHolder
from proxy.backend.roads import Roads
from proxy.choosing.chooser import Chooser
from proxy.choosing.crowd import Crowd
from proxy.choosing.starting import Starter
from proxy.control.explaining import Explainer
from proxy.control.path_file import PathFile
from proxy.control.routing_desk import RoutingDesk
from proxy.frontend.clients import Clients
from proxy.frontend.edge import MAX_OUTSIDE, Edge
from proxy.frontend.edge_tls import EdgeTls
from proxy.frontend.grace import Grace
from proxy.frontend.places import Places
from proxy.guard.ejecting import Ejector
from proxy.guard.guards import Guards
from proxy.guard.limiting import Counting, Limiter
from proxy.guard.traffic import PERIOD_S, Traffics
from proxy.layer4.tunnels import Tunnels
from proxy.ranking.routing_table import RoutingTable
from proxy.ranking.upstreams import Upstreams
from proxy.request.forwarding import Forwarder
from proxy.route.exposure import exposure_of
from proxy.settings import ProxySettings
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.decisions import Decisions
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.telemetry import Telemetry, Tracer

PROGRAMS = "programs"
"""The name of the listener for this machine's programs; others are named for their address."""

LOOK_S = 0.5
"""How often the kernel is asked about the connections to other machines; some 2 µs for each."""


class Peer(Protocol):
    """The peer that the process is, or works for."""

    @property
    def peer_id(self) -> PeerId:
        """Its id."""
        ...

    @property
    def identity(self) -> Identity:
        """Signs what stands in for definitions, in this process alone."""
        ...

    @property
    def hostname(self) -> str:
        """Its machine's name."""
        ...

    @property
    def view(self) -> View:
        """What it knows of the network."""
        ...

    @property
    def tls(self) -> PeerTls:
        """Its contexts."""
        ...

    @property
    def calls(self) -> Calls:
        """Makes its calls."""
        ...

    def take(self, signed: Signed) -> None:
        """Take in a record that came as an answer."""
        ...

    async def changed(self) -> None:
        """Wait for the next change of the view."""
        ...


class Serving:
    """Answers requests.

    Args:
        peer: whose requests they are.
        definitions: what services are.
        settings: of the proxy.
        grace: ends it all in its order.
        counts: where it is counted what was done.
        access_log, tracer: are told of requests.
        tls: what the outside is shown.
        carry: opens connections over the overlay.
        rates: counts requests against rate limits.
        kept: where the routing table is kept; None keeps it nowhere.
        control: the path of the proxy's control socket, for the allocators of its machine.
        welcomed: called with each local allocator's word on where containers look for the proxy;
            None for a process that is not to be found by them.
    """

    def __init__(
        self,
        peer: Peer,
        definitions: Definitions,
        settings: ProxySettings,
        grace: Grace,
        counts: CollectorRegistry,
        access_log: AccessLog | None,
        tracer: Tracer | None,
        tls: EdgeTls | None,
        *,
        carry: Carry,
        rates: Counting,
        kept: Path | None,
        control: str,
        welcomed: Callable[[LeaseHolder, Welcome], None] | None,
    ) -> None:
        self._peer = peer
        self._grace = grace
        random = Random()  # noqa: S311  (draws among equals, hides nothing)
        view = peer.view
        self.routes = RoutingTable()
        self.upstreams = Upstreams(view, random, self.routes)
        self.roads = Roads(
            view,
            peer.tls,
            grace.lasting,
            Hello(proxy_port=settings.port, control=control),
            carry,
            welcomed,
            max(1, MAX_CARRIED // settings.workers),
        )
        grace.close = self.roads.aclose
        self.changed: Callable[[], None] = lambda: None
        self.crowd, decisions = Crowd(), Decisions()
        self.starter = Starter(
            view,
            peer.calls,
            grace.lasting,
            peer.take,
            random,
            self.crowd.news,
            partial(own_deputy, peer.peer_id),
            self.roads.leads_nowhere,
        )
        metrics = self.metrics = ProxyMetrics(counts)
        metrics.waiting.set_function(lambda: self.crowd.count)
        self._guards = Guards(
            Traffics(),
            Ejector(view, self.upstreams, trio.current_time, metrics.ejected),
            Limiter(rates, metrics.over_rate),
            metrics,
        )
        self.desk = RoutingDesk(self.routes, kept, settings.port, self._rerouted, peer.identity)
        self.machine_names = frozenset({peer.hostname.lower(), system_hostname().lower()})
        self.forwarder = Forwarder(
            view,
            definitions,
            self.roads,
            Chooser(view, self.upstreams, self.starter, self.crowd, decisions),
            decisions,
            self._guards,
            machine_names=self.machine_names,
            stand_in=self.desk.stand_in,
            paths=PathFile(settings.paths).current if settings.paths else None,
        )
        self.tunnels = Tunnels(self.forwarder, self.roads)
        metrics.tunnels.set_function(lambda: self.tunnels.count)
        self.clients = Clients(
            self.forwarder,
            self.tunnels,
            grace,
            metrics,
            Telemetry(metrics, decisions, access_log, tracer),
            Limits(
                max_body_bytes=settings.max_body_bytes or inf,
                idle_timeout_s=settings.idle_timeout_s,
            ),
            settings.trusted_forwarders,
        )
        self.explainer = Explainer(
            decisions, view, definitions, self.upstreams, self.starter, trio.current_time
        )
        self.edge = self._open_edge(settings, tls) if settings.listen else None

    def listen(self, listeners: Mapping[str, trio.SocketListener]) -> None:
        """Accept this machine's programs, and clients from outside, on listeners by name."""
        for name, listener in listeners.items():
            outside = self.edge if name != PROGRAMS else None
            serve = self.clients.serve if outside is None else outside.serve
            hold = partial(trio.serve_listeners, handler_nursery=self._grace.connections)
            self._grace.listeners.start_soon(hold, serve, [listener])

    async def run(self) -> None:
        """Keep it in step with the network until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_view)
            nursery.start_soon(self._look_at_paths)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self.tunnels.watch)

    def _rerouted(self, service: ServiceName) -> None:
        self.crowd.news(service)
        self.changed()

    async def _follow_view(self) -> None:
        """Keep roads and statistics in step with the view."""
        view, seen = self._peer.view, None
        while True:
            if seen == view.generation:
                await self._peer.changed()
            seen = view.generation
            await self.roads.follow()
            self.upstreams.prune()
            self.changed()
            self.crowd.look(view.instances)

    async def _look_at_paths(self) -> None:
        """End what is under way to machines to which the path is cut."""
        while True:
            await trio.sleep(LOOK_S)
            self.roads.look_at_paths()

    async def _sweep(self) -> None:
        """Drop idle upstream connections now and then, and what is not worth remembering."""
        while True:
            await trio.sleep(PERIOD_S)
            await self.roads.sweep()
            self._guards.begin_period()
            await self.roads.keep_routed(self.routes.addresses())

    def _open_edge(self, settings: ProxySettings, tls: EdgeTls | None) -> Edge:
        places = Places(MAX_OUTSIDE, MAX_OUTSIDE, settings.listen_connections_of_one)
        self.metrics.outside.set_function(lambda: places.taken)
        return Edge(self.clients, exposure_of(settings.expose), tls, self.metrics, places)
