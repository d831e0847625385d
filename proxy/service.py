"""The proxy daemon: wires the parts together and serves client connections."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import structlog
import trio

from overlay.advertising import system_hostname
from overlay.definitions import Definitions
from overlay.deputy import own_deputy
from overlay.errors import AddressTaken, SettingsInvalid
from overlay.http.carried import open_carried
from overlay.http.connection import Limits
from overlay.leases import Hello, Welcome
from overlay.listeners import listen
from overlay.node import Node, check_settings, open_node
from overlay.notify import notify
from overlay.onward import WANT as ONWARD
from overlay.records import Role
from overlay.settings import control_path
from proxy.backend.leases import LeaseHolder
from proxy.backend.roads import Roads
from proxy.choosing.chooser import Chooser
from proxy.choosing.crowd import Crowd
from proxy.choosing.starting import Starter
from proxy.control.explaining import Explainer
from proxy.control.routing_desk import RoutingDesk
from proxy.envoy.admin import Admin
from proxy.envoy.bootstrap import Files
from proxy.envoy.engine import Engine
from proxy.envoy.fronts import Front
from proxy.envoy.service import fronts_of, run_envoy
from proxy.frontend.clients import Clients, unknown
from proxy.frontend.edge import MAX_OUTSIDE, Edge, listen_outside
from proxy.frontend.edge_tls import EdgeTls
from proxy.frontend.grace import Grace
from proxy.frontend.places import Places
from proxy.frontend.sandboxes import SandboxDoor
from proxy.guard.ejecting import Ejector
from proxy.guard.guards import Guards
from proxy.guard.limiting import Limiter
from proxy.guard.shares import Counter, Shares
from proxy.guard.traffic import PERIOD_S, Traffics
from proxy.layer4.forward_orders import WANT as FORWARD
from proxy.layer4.forwards import Forwards
from proxy.layer4.onward import OnwardDesk
from proxy.layer4.tunnels import Tunnels
from proxy.ranking.routing_table import RoutingTable
from proxy.ranking.upstreams import Upstreams
from proxy.request.forwarding import Forwarder
from proxy.route.caller import Caller
from proxy.route.exposure import exposure_of
from proxy.settings import ProxySettings
from proxy.succession.calls import LastingCalls
from proxy.succession.heir import take_over
from proxy.succession.messages import WANT as SUCCEED
from proxy.succession.messages import Moved
from proxy.succession.predecessor import Entrance, Predecessor
from proxy.succession.successors import WANT as RESTART
from proxy.succession.successors import Successors
from proxy.telemetry.access_log import AccessLog, open_access_log
from proxy.telemetry.decisions import Decisions
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.telemetry import Telemetry, Tracer

if TYPE_CHECKING:
    from proxy.telemetry.otel import OtelTracer

DEFAULT_METRICS_ADDR = ":9103"

PROGRAMS = "programs"
"""The name of the listener for this machine's programs; others are named for their address."""

LOOK_S = 0.5
"""How often the kernel is asked about the connections to other machines; some 2 µs for each."""

OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own way to say where spans go."""

log = structlog.get_logger()


async def run(settings: ProxySettings, *, ready: Callable[[Node], None] | None = None) -> None:
    """Serve until cancelled; requests under way are then given time (`grace.py`).

    Args:
        settings: the daemon's settings.
        ready: called once requests are answered.

    Raises:
        AddressTaken: the port is in use; says by whom.
        SettingsInvalid: a certificate cannot be used.
    """
    tls = EdgeTls(settings.certificates, settings.client_ca) if settings.tls_cert else None
    by_envoy = settings.engine == "envoy"
    fronts = await fronts_of(settings) if by_envoy else ()
    tracers, name, past = _tracers(settings), str(settings.port), None
    if settings.takeover:
        check_settings(settings, Role.PROXY, name)
        past = await take_over(control_path(settings.state_dir, Role.PROXY, name))
    listeners = {} if past is not None or by_envoy else await _listen(settings, {})
    async with (
        open_node(
            settings,
            Role.PROXY,
            name=name,
            default_metrics_addr=DEFAULT_METRICS_ADDR,
            legacy=None if past is None else past.legacy,
        ) as node,
        open_access_log(settings.access_log, node.metrics) as access_log,
        _open_tracer(tracers, node) as tracer,
        trio.open_nursery() as nursery,
    ):
        calls = node.calls = LastingCalls(node.reach)
        definitions = Definitions(node, settings.state_dir)
        following = await nursery.start(_follow, definitions)
        grace = Grace()
        await nursery.start(grace.run)
        server = _Server(node, definitions, settings, grace, access_log, tracer, tls)
        node.status = lambda: _status(definitions, settings, server.engine)
        if past is not None:
            await past.claim()
            listeners = await _listen(settings, past.listeners)
            server.inherited = past.listeners
            nursery.start_soon(past.adopt, server.adopt, calls)
        nursery.start_soon(server.successors.run)
        nursery.start_soon(server.follow_view)
        nursery.start_soon(server.sweep)
        nursery.start_soon(server.look_at_paths)
        nursery.start_soon(server.tunnels.watch)
        await grace.listeners.start(server.forwards.run)
        if by_envoy:
            await grace.listeners.start(server.serve_by_envoy, settings, fronts, tls)
        server.listen(listeners)
        if ready is not None:
            ready(node)
        notify("READY=1")
        log.info("proxy.ready", port=settings.port, peer=node.peer_id)
        heir = await server.entrance.heir()
        await following.end()
        await server.predecessor(settings, calls).give_way(heir)
        nursery.cancel_scope.cancel()


async def _listen(
    settings: ProxySettings, inherited: dict[str, trio.SocketListener]
) -> dict[str, trio.SocketListener]:
    """Return what the settings say to listen on, by name; what was inherited is taken out.

    Raises:
        AddressTaken: a port is in use; says by whom.
    """
    listeners = {}
    for name in (PROGRAMS, *settings.listen):
        found = inherited.pop(name, None)
        if found is None and name == PROGRAMS:
            found = await listen("127.0.0.1", settings.port, what="the proxy")
        listeners[name] = found or await listen_outside(name, secured=bool(settings.tls_cert))
    return listeners


@dataclass(frozen=True, slots=True)
class _Following:
    """What keeps the definitions fresh until `end`."""

    scope: trio.CancelScope
    over: trio.Event

    async def end(self) -> None:
        """End it; what is on disk is true when this returns."""
        self.scope.cancel()
        await self.over.wait()


async def _follow(
    definitions: Definitions, *, task_status: trio.TaskStatus[_Following] = trio.TASK_STATUS_IGNORED
) -> None:
    following = _Following(trio.CancelScope(), trio.Event())
    with following.scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(definitions.run)
            task_status.started(following)
    following.over.set()


def _tracers(settings: ProxySettings) -> Callable[[str, str], "OtelTracer"] | None:
    """Return what makes an exporter of spans for a host and a peer, if somebody wants them.

    Raises:
        SettingsInvalid: OpenTelemetry is not installed.
    """
    if not settings.otlp_endpoint and not any(os.environ.get(name) for name in OTLP_VARIABLES):
        return None
    try:
        from proxy.telemetry.otel import OtelTracer  # noqa: PLC0415  (an extra, and 0.2 s to import)
    except ImportError as exc:
        raise SettingsInvalid(
            f"spans need OpenTelemetry: pip install 'myxo[otel]' ({exc})"
        ) from exc
    return partial(OtelTracer, settings.otlp_endpoint)


@asynccontextmanager
async def _open_tracer(
    tracers: Callable[[str, str], "OtelTracer"] | None, node: Node
) -> AsyncIterator[Tracer | None]:
    """Yield what exports spans; the last ones go out at the end."""
    if tracers is None:
        yield None
        return
    tracer = tracers(node.hostname, node.peer_id)
    try:
        yield tracer
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(tracer.shutdown)


class _Server:
    """Client connections, and what they need of the rest."""

    def __init__(
        self,
        node: Node,
        definitions: Definitions,
        settings: ProxySettings,
        grace: Grace,
        access_log: AccessLog | None,
        tracer: Tracer | None,
        tls: EdgeTls | None,
    ) -> None:
        self._node = node
        self._port = settings.port
        self.engine: Engine | None = None
        self._grace, self._definitions = grace, definitions
        self._listeners = grace.listeners
        self._connections = grace.connections
        self._sockets: dict[str, trio.SocketListener] = {}
        self.inherited: dict[str, trio.SocketListener] = {}
        random = Random()  # noqa: S311  (draws among equals, hides nothing)
        self._routes = RoutingTable()
        self._upstreams = Upstreams(node.view, random, self._routes)
        carry = partial(open_carried, node.host, node.reach.connect)
        hello = Hello(proxy_port=settings.port, control=node.record.control)
        self._roads = Roads(node.view, node.tls, grace.lasting, hello, carry, self._welcomed)
        grace.close = self._roads.aclose
        self._bridges: set[str] = set()
        self._doors: dict[Path, SandboxDoor] = {}
        self._crowd, decisions = Crowd(), Decisions()
        self._starter = starter = Starter(
            node.view,
            node.calls,
            grace.lasting,
            node.take,
            random,
            self._crowd.news,
            partial(own_deputy, node.peer_id),
            self._roads.leads_nowhere,
        )
        metrics = self._metrics = ProxyMetrics(node.metrics)
        metrics.waiting.set_function(lambda: self._crowd.count)
        self._guards = self._guard(metrics)
        kept = None
        if not settings.ephemeral:
            kept = settings.state_dir / "routing-tables" / f"{settings.port}.json"
        desk = RoutingDesk(self._routes, kept, settings.port, self._crowd.news, node.identity)
        node.wants["rtable"] = desk.serve
        self._machine_names = frozenset({node.hostname.lower(), system_hostname().lower()})
        forwarder = Forwarder(
            node.view,
            definitions,
            self._roads,
            Chooser(node.view, self._upstreams, starter, self._crowd, decisions),
            decisions,
            self._guards,
            machine_names=self._machine_names,
            stand_in=desk.stand_in,
        )
        telemetry = Telemetry(metrics, decisions, access_log, tracer)
        limits = Limits(max_body_bytes=settings.max_body_bytes or inf)
        self.tunnels = Tunnels(forwarder, self._roads)
        self._clients = Clients(
            forwarder,
            self.tunnels,
            grace,
            metrics,
            telemetry,
            limits,
            settings.trusted_forwarders,
        )
        explainer = Explainer(
            decisions, node.view, definitions, self._upstreams, starter, trio.current_time
        )
        node.wants["why"] = explainer.serve
        metrics.tunnels.set_function(lambda: self.tunnels.count)
        self.forwards = Forwards(
            forwarder, self.tunnels, metrics.tunnelled, grace.connections, grace.stopping
        )
        node.wants[FORWARD] = self.forwards.serve
        onward = OnwardDesk(self.tunnels, metrics.tunnelled, grace.connections)
        node.wants[ONWARD] = onward.serve
        self._edge = self._open_edge(settings, tls) if settings.listen else None
        self.successors, self.entrance = Successors(), Entrance()
        node.wants[RESTART] = self.successors.serve
        node.wants[SUCCEED] = self.entrance.serve

    def _guard(self, metrics: ProxyMetrics) -> Guards:
        view, now = self._node.view, trio.current_time
        counter = Counter(view, self._node.calls)
        return Guards(
            Traffics(),
            Ejector(view, self._upstreams, now, metrics.ejected),
            Limiter(Shares(counter.ask, counter.proxies), now, metrics.over_rate),
            metrics,
        )

    async def serve_by_envoy(
        self,
        settings: ProxySettings,
        fronts: tuple[Front, ...],
        tls: EdgeTls | None,
        *,
        task_status: trio.TaskStatus[Engine],
    ) -> None:
        """Have Envoy accept everybody but this machine's containers, until cancelled."""

        def make_engine(
            files: Files, fronts: tuple[Front, ...], admin: Admin, restart: Callable[[], None]
        ) -> Engine:
            self.engine = Engine(
                self._node.view,
                self._definitions,
                self._upstreams,
                self._roads,
                self._starter,
                self._routes,
                self._metrics,
                files,
                fronts,
                admin,
                tls,
                restart,
            )
            return self.engine

        named = tuple(replace(front, machine_names=self._machine_names) for front in fronts)
        await run_envoy(
            settings, named, self._clients, self._grace, make_engine, task_status=task_status
        )

    def listen(self, listeners: Mapping[str, trio.SocketListener]) -> None:
        """Accept this machine's programs, and clients from outside, on listeners by name."""
        self._sockets.update(listeners)
        for name, listener in listeners.items():
            outside = self._edge if name != PROGRAMS else None
            serve = self._clients.serve if outside is None else outside.serve
            hold = partial(trio.serve_listeners, handler_nursery=self._connections)
            self._listeners.start_soon(hold, serve, [listener])

    def adopt(self, moved: Moved, stream: trio.SocketStream) -> None:
        """Go on with a connection of the process whose place was taken."""
        gone = self._grace.stopping.is_set() or (moved.outside and self._edge is None)
        if gone:  # this process ends as well, or has other settings
            stream.socket.close()
        else:
            self._connections.start_soon(self._serve_adopted, moved, stream)

    async def _serve_adopted(self, moved: Moved, stream: trio.SocketStream) -> None:
        received = moved.received.encode("latin-1")
        if moved.outside and self._edge is not None:
            await self._edge.serve(stream, received)
            return
        caller = None
        if moved.service is not None and moved.instance is not None:
            caller = Caller(moved.service, moved.instance)

        async def ask() -> Caller | None:
            return caller

        await self._clients.serve(
            stream, moved.source, ask if moved.sandboxed else unknown, received
        )

    def predecessor(self, settings: ProxySettings, calls: LastingCalls) -> Predecessor:
        """Return what this proxy does once another process is to take its place."""
        return Predecessor(
            self._node,
            self._node.identity.seed if settings.ephemeral else b"",
            calls,
            self._grace,
            self._clients,
            self._roads,
            lambda: self._sockets,
            settings.restart_drain_s,
        )

    def _open_edge(self, settings: ProxySettings, tls: EdgeTls | None) -> Edge:
        places = Places(MAX_OUTSIDE, MAX_OUTSIDE, settings.listen_connections_of_one)
        self._metrics.outside.set_function(lambda: places.taken)
        return Edge(self._clients, exposure_of(settings.expose), tls, self._metrics, places)

    async def follow_view(self) -> None:
        """Keep roads and statistics in step with the view."""
        seen = None
        while True:
            if seen == self._node.view.generation:
                await self._node.changed()
            seen = self._node.view.generation
            await self._roads.follow()
            self._upstreams.prune()
            if self.engine is not None:
                self.engine.wake()
            self._crowd.look(self._node.view.instances)

    async def look_at_paths(self) -> None:
        """End what is under way to machines to which the path is cut."""
        while True:
            await trio.sleep(LOOK_S)
            self._roads.look_at_paths()

    async def sweep(self) -> None:
        """Drop idle upstream connections now and then, and what is not worth remembering."""
        while True:
            await trio.sleep(PERIOD_S)
            await self._roads.sweep()
            self._guards.begin_period()
            await self._roads.keep_routed(self._routes.addresses())

    def _welcomed(self, holder: LeaseHolder, welcome: Welcome) -> None:
        """Listen where this machine's containers look for the proxy, once for each place."""
        if self._grace.stopping.is_set():
            return
        for bridge in welcome.bridges:
            if bridge.address not in self._bridges:
                self._bridges.add(bridge.address)
                self._listeners.start_soon(self._serve_bridge, bridge.address, bridge.interface)
        if welcome.sandboxes is None:
            return
        path = Path(welcome.sandboxes)
        door = self._doors.get(path)
        if door is not None:
            self._listeners.start_soon(door.announce, holder)
        elif welcome.listen:
            door = SandboxDoor(path, holder, self._clients.serve, self._connections)
            self._doors[path] = door
            self._listeners.start_soon(self._serve_sandboxes, path, door)

    async def _serve_sandboxes(self, path: Path, door: SandboxDoor) -> None:
        try:
            await door.run()
        except AddressTaken as exc:
            log.warning("proxy.sandboxes_unserved", error=str(exc))
            del self._doors[path]

    async def _serve_bridge(self, address: str, interface: str) -> None:
        """Serve the bridge only: a neighbour that routes to its address must not get in."""
        try:
            listener = self.inherited.pop(address, None) or await listen(
                address, self._port, what="this machine's containers", device=interface
            )
        except AddressTaken as exc:
            log.warning("proxy.bridge_unserved", address=address, error=str(exc))
            self._bridges.discard(address)
            return
        self._sockets[address] = listener
        log.info("proxy.bridge_served", address=address, port=self._port)

        async def serve(stream: trio.SocketStream) -> None:
            await self._clients.serve(stream, _source(stream))

        await trio.serve_listeners(serve, [listener], handler_nursery=self._connections)


def _source(stream: trio.SocketStream) -> str:
    """Return the address that a connection on a bridge comes from: a container's."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # it has left already
        return "gone"


def _status(
    definitions: Definitions, settings: ProxySettings, engine: Engine | None
) -> dict[str, object]:
    """Return what the proxy adds to `myxo status`."""
    services = [{"name": name} for name in sorted(definitions.names())]
    found: dict[str, object] = {"services": services, "port": settings.port}
    if engine is not None:
        found["envoy"] = {
            "serves": engine.served,
            "leaves": {str(name): why for name, why in engine.left.items()},
            "admin": str(engine.admin_socket),
        }
    return found
