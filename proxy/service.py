"""The proxy daemon: wires the parts together and serves client connections."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
import trio
from prometheus_client import CollectorRegistry

from overlay.definitions import Definitions
from overlay.errors import AddressTaken
from overlay.http.carried import open_carried
from overlay.leases import Welcome
from overlay.listeners import listen
from overlay.node import Node, check_settings, open_node
from overlay.notify import notify
from overlay.onward import WANT as ONWARD
from overlay.records import Role
from overlay.settings import control_path
from proxy.backend.leases import LeaseHolder
from proxy.envoy.admin import Admin
from proxy.envoy.bootstrap import Files
from proxy.envoy.engine import Engine
from proxy.envoy.fronts import Front
from proxy.envoy.process import EnvoyProcess
from proxy.envoy.service import fronts_of, run_envoy
from proxy.frontend.clients import unknown
from proxy.frontend.edge import listen_outside
from proxy.frontend.edge_tls import EdgeTls
from proxy.frontend.grace import Grace
from proxy.frontend.sandboxes import SandboxDoor
from proxy.guard.limiting import Rates
from proxy.guard.shares import Counter, Shares
from proxy.layer4.forward_orders import WANT as FORWARD
from proxy.layer4.forwards import Forwards
from proxy.layer4.onward import OnwardDesk
from proxy.route.caller import Caller
from proxy.serving import PROGRAMS, Serving
from proxy.settings import ProxySettings
from proxy.succession.calls import LastingCalls
from proxy.succession.heir import take_over
from proxy.succession.messages import WANT as SUCCEED
from proxy.succession.messages import Moved
from proxy.succession.predecessor import Entrance, Predecessor
from proxy.succession.successors import WANT as RESTART
from proxy.succession.successors import Successors
from proxy.telemetry.access_log import AccessLog, open_access_log
from proxy.telemetry.telemetry import Tracer
from proxy.telemetry.tracers import open_tracer, tracers_of
from proxy.workers.counts import Summed
from proxy.workers.pool import Workers

DEFAULT_METRICS_ADDR = ":9103"

ENVOYS_PORTS = "its Envoy's ports cannot be taken over: stop this proxy, then start it again"

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
    tracers, name, past = tracers_of(settings.otlp_endpoint), str(settings.port), None
    counts = CollectorRegistry()
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
        open_access_log(settings.access_log, counts) as access_log,
        open_tracer(tracers, node.hostname, node.peer_id) as tracer,
        trio.open_nursery() as nursery,
    ):
        calls = node.calls = LastingCalls(node.reach)
        definitions = Definitions(node, settings.state_dir)
        following = await nursery.start(_follow, definitions)
        grace = Grace(settings.drain_s)
        await nursery.start(grace.run)
        server = _Server(node, definitions, settings, grace, access_log, tracer, tls, counts)
        node.metrics.register(Summed(counts, server.workers.counts))
        node.before_scrape = server.workers.count
        node.status = lambda: _status(definitions, settings, server)
        if past is not None:
            await past.claim()
            listeners = await _listen(settings, past.listeners)
            server.inherited = past.listeners
            nursery.start_soon(past.adopt, server.adopt, calls)
        nursery.start_soon(server.successors.run)
        nursery.start_soon(server.serving.run)
        await grace.listeners.start(server.forwards.run)
        for left in () if past is None else past.forwards:
            server.forwards.inherit(left)
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
        counts: CollectorRegistry,
    ) -> None:
        self._node = node
        self._port = settings.port
        self.engine: Engine | None = None
        self._grace, self._definitions = grace, definitions
        self._listeners = grace.listeners
        self._connections = grace.connections
        self._sockets: dict[str, trio.SocketListener] = {}
        self.inherited: dict[str, trio.SocketListener] = {}
        self._bridges: set[str] = set()
        self._doors: dict[Path, SandboxDoor] = {}
        counter = Counter(node.view, node.calls)
        rates = Rates(Shares(counter.ask, counter.proxies), trio.current_time)
        kept = None
        if not settings.ephemeral:
            kept = settings.state_dir / "routing-tables" / f"{settings.port}.json"
        self.serving = serving = Serving(
            node,
            definitions,
            settings,
            grace,
            counts,
            access_log,
            tracer,
            tls,
            carry=partial(open_carried, node.host, node.reach.connect),
            rates=rates,
            kept=kept,
            control=node.record.control,
            welcomed=self._welcomed,
        )
        serving.changed = self._changed
        self.workers = Workers(node, definitions, serving, rates, settings, grace)
        serving.explainer.others = self.workers.decided
        node.wants["rtable"] = serving.desk.serve
        node.wants["why"] = serving.explainer.serve
        tunnels, tunnelled = serving.tunnels, serving.metrics.tunnelled
        self.forwards = Forwards(
            serving.forwarder, tunnels, tunnelled, grace.connections, grace.stopping
        )
        node.wants[FORWARD] = self.forwards.serve
        node.wants[ONWARD] = OnwardDesk(tunnels, tunnelled, grace.connections).serve
        refusal = ENVOYS_PORTS if settings.engine == "envoy" else ""
        self.successors, self.entrance = Successors(refusal), Entrance(refusal)
        node.wants[RESTART] = self.successors.serve
        node.wants[SUCCEED] = self.entrance.serve

    def _changed(self) -> None:
        if self.engine is not None:
            self.engine.wake()
        self.workers.wake()

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
            files: Files, fronts: tuple[Front, ...], admin: Admin, envoy: EnvoyProcess
        ) -> Engine:
            self.engine = Engine(
                self._node.view,
                self._definitions,
                self.serving.upstreams,
                self.serving.roads,
                self.serving.starter,
                self.serving.routes,
                self.serving.metrics,
                files,
                fronts,
                admin,
                self._node.tls,
                tls,
                envoy,
            )
            return self.engine

        named = tuple(replace(front, machine_names=self.serving.machine_names) for front in fronts)
        await run_envoy(
            settings,
            named,
            self.serving.clients,
            self._grace,
            make_engine,
            self._node.tls,
            task_status=task_status,
        )

    def listen(self, listeners: Mapping[str, trio.SocketListener]) -> None:
        """Accept this machine's programs, and clients from outside, on listeners by name."""
        self._sockets.update(listeners)
        self.serving.listen(listeners)
        self.workers.begin(listeners)

    def adopt(self, moved: Moved, stream: trio.SocketStream) -> None:
        """Go on with a connection of the process whose place was taken."""
        gone = self._grace.stopping.is_set() or (moved.outside and self.serving.edge is None)
        if gone:  # this process ends as well, or has other settings
            stream.socket.close()
        else:
            self._connections.start_soon(self._serve_adopted, moved, stream)

    async def _serve_adopted(self, moved: Moved, stream: trio.SocketStream) -> None:
        received = moved.received.encode("latin-1")
        if moved.outside and self.serving.edge is not None:
            await self.serving.edge.serve(stream, received)
            return
        caller = None
        if moved.service is not None and moved.instance is not None:
            caller = Caller(moved.service, moved.instance)

        async def ask() -> Caller | None:
            return caller

        await self.serving.clients.serve(
            stream, moved.source, ask if moved.sandboxed else unknown, received
        )

    def predecessor(self, settings: ProxySettings, calls: LastingCalls) -> Predecessor:
        """Return what this proxy does once another process is to take its place."""
        return Predecessor(
            self._node,
            self._node.identity.seed if settings.ephemeral else b"",
            calls,
            self._grace,
            self.serving.clients,
            self.serving.roads,
            lambda: self._sockets,
            self.forwards,
            settings.restart_drain_s,
        )

    def _welcomed(self, holder: LeaseHolder, welcome: Welcome) -> None:
        """Listen where this machine's containers look for the proxy, once for each place."""
        if self._grace.leaving:
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
            door = SandboxDoor(path, holder, self.serving.clients.serve, self._connections)
            self._doors[path] = door
            self._listeners.start_soon(self._serve_sandboxes, path, door)
        else:
            return
        holder.occupied = door.occupied

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
            await self.serving.clients.serve(stream, _source(stream))

        await trio.serve_listeners(serve, [listener], handler_nursery=self._connections)


def _source(stream: trio.SocketStream) -> str:
    """Return the address that a connection on a bridge comes from: a container's."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # it has left already
        return "gone"


def _status(
    definitions: Definitions, settings: ProxySettings, server: _Server
) -> dict[str, object]:
    """Return what the proxy adds to `myxo status`."""
    services = [{"name": name} for name in sorted(definitions.names())]
    found: dict[str, object] = {"services": services, "port": settings.port}
    engine = server.engine
    if settings.workers > 1:
        found["workers"] = server.workers.status()
    if engine is not None:
        found["envoy"] = {
            "serves": engine.served,
            "leaves": {str(name): why for name, why in engine.left.items()},
            "admin": str(engine.admin_socket),
        }
    return found
