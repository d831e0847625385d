"""The proxy daemon: wires the parts together and serves client connections."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter

import structlog
import trio

from overlay.advertising import system_hostname
from overlay.definitions import Definitions
from overlay.errors import AddressTaken
from overlay.http.carried import open_carried
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest, ClientGone, ResponseCut
from overlay.http.head import Field, RequestHead
from overlay.leases import Welcome
from overlay.listeners import listen
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.records import Role
from proxy.caller import Caller
from proxy.choosing import Chooser
from proxy.crowd import Crowd
from proxy.decisions import Decisions
from proxy.errors import RequestRefused
from proxy.explaining import Explainer
from proxy.forwarding import Forwarder
from proxy.leases import LeaseHolder
from proxy.metrics import ProxyMetrics
from proxy.roads import Roads
from proxy.routing import Route
from proxy.sandboxes import SandboxDoor
from proxy.settings import ProxySettings
from proxy.starting import Starter
from proxy.upstreams import Upstreams

DEFAULT_METRICS_ADDR = ":9103"

DRAIN_S = 3.0
"""How long requests under way may take to end when the proxy stops."""

SWEEP_S = 5.0
"""How often idle upstream connections are looked through."""

MAX_CLIENTS = 20_000
"""Open client connections; one costs a file descriptor and some 20 KiB."""

_TEXT: Field = (b"Content-Type", b"text/plain; charset=utf-8")

log = structlog.get_logger()


async def run(settings: ProxySettings, *, ready: Callable[[Node], None] | None = None) -> None:
    """Serve until cancelled; requests under way are then given `DRAIN_S` seconds.

    Args:
        settings: the daemon's settings.
        ready: called once requests are answered.

    Raises:
        AddressTaken: the port is in use; says by whom.
    """
    listener = await listen("127.0.0.1", settings.port, what="the proxy")
    async with (
        open_node(
            settings,
            Role.PROXY,
            name=str(settings.port),
            default_metrics_addr=DEFAULT_METRICS_ADDR,
        ) as node,
        trio.open_nursery() as nursery,
    ):
        definitions = Definitions(node, settings.state_dir)
        await nursery.start(definitions.run)
        node.status = lambda: _status(definitions, settings)
        server = _Server(node, definitions, settings, nursery)
        nursery.start_soon(server.follow_view)
        nursery.start_soon(server.sweep)
        await nursery.start(server.serve, listener)
        if ready is not None:
            ready(node)
        notify("READY=1")
        log.info("proxy.ready", port=settings.port, peer=node.peer_id)
        await trio.sleep_forever()


class _Server:
    """Client connections, and what they need of the rest."""

    def __init__(
        self,
        node: Node,
        definitions: Definitions,
        settings: ProxySettings,
        nursery: trio.Nursery,
    ) -> None:
        self._node = node
        self._port = settings.port
        self._nursery = nursery
        self._metrics = ProxyMetrics(node.metrics)
        random = Random()  # noqa: S311  (draws among equals, hides nothing)
        self._upstreams = Upstreams(node.view, random)
        carry = partial(open_carried, node.host, node.reach.connect)
        self._roads = Roads(node.view, node.tls, nursery, settings.port, carry, self._welcomed)
        self._bridges: set[str] = set()
        self._doors: dict[Path, SandboxDoor] = {}
        self._clients = 0
        self._metrics.connections.set_function(lambda: self._clients)
        self._idle: set[trio.CancelScope] = set()
        self._connections: trio.Nursery | None = None
        self._stopping = trio.Event()
        self._crowd, decisions = Crowd(), Decisions()
        starter = Starter(node.view, node.calls, nursery, node.take, random, self._crowd.news)
        self._forwarder = Forwarder(
            node.view,
            definitions,
            self._roads,
            Chooser(node.view, self._upstreams, starter, self._crowd, decisions),
            decisions,
            machine_names=frozenset({node.hostname.lower(), system_hostname().lower()}),
        )
        explainer = Explainer(
            decisions, node.view, definitions, self._upstreams, starter, trio.current_time
        )
        node.wants["why"] = explainer.serve

    async def serve(
        self,
        listener: trio.SocketListener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; what is under way outlives the listener for a while."""
        self._connections = await self._nursery.start(self._hold_connections)
        task_status.started()
        try:
            await trio.serve_listeners(
                self._serve_client, [listener], handler_nursery=self._connections
            )
        finally:
            self._stopping.set()

    async def _hold_connections(
        self, *, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the client connections; when the listener is gone, give the busy ones a deadline."""
        async with trio.open_nursery() as connections:
            connections.cancel_scope.shield = True
            task_status.started(connections)
            await self._stopping.wait()
            connections.cancel_scope.deadline = trio.current_time() + DRAIN_S
            for scope in self._idle:
                scope.cancel()
        with trio.CancelScope(shield=True):
            await self._roads.aclose()

    async def follow_view(self) -> None:
        """Keep roads and statistics in step with the view."""
        seen = None
        while True:
            if seen == self._node.view.generation:
                await self._node.changed()
            seen = self._node.view.generation
            await self._roads.follow()
            self._upstreams.prune()
            self._crowd.look(self._node.view.instances)

    async def sweep(self) -> None:
        """Drop idle upstream connections now and then."""
        while True:
            await trio.sleep(SWEEP_S)
            await self._roads.sweep()

    def _welcomed(self, holder: LeaseHolder, welcome: Welcome) -> None:
        """Listen where this machine's containers look for the proxy, once for each place."""
        for bridge in welcome.bridges:
            if bridge.address not in self._bridges:
                self._bridges.add(bridge.address)
                self._nursery.start_soon(self._serve_bridge, bridge.address, bridge.interface)
        if welcome.sandboxes is None or self._connections is None:
            return
        path = Path(welcome.sandboxes)
        door = self._doors.get(path)
        if door is not None:
            self._nursery.start_soon(door.announce, holder)
        elif welcome.listen:
            door = SandboxDoor(path, holder, self._serve_client, self._connections)
            self._doors[path] = door
            self._nursery.start_soon(self._serve_sandboxes, path, door)

    async def _serve_sandboxes(self, path: Path, door: SandboxDoor) -> None:
        try:
            await door.run()
        except AddressTaken as exc:
            log.warning("proxy.sandboxes_unserved", error=str(exc))
            del self._doors[path]

    async def _serve_bridge(self, address: str, interface: str) -> None:
        """Serve the bridge only: a neighbour that routes to its address must not get in."""
        try:
            listener = await listen(
                address, self._port, what="this machine's containers", device=interface
            )
        except AddressTaken as exc:
            log.warning("proxy.bridge_unserved", address=address, error=str(exc))
            self._bridges.discard(address)
            return
        log.info("proxy.bridge_served", address=address, port=self._port)
        await trio.serve_listeners(
            self._serve_client, [listener], handler_nursery=self._connections
        )

    async def _serve_client(self, stream: trio.SocketStream, caller: Caller | None = None) -> None:
        client = ServerConnection(stream)
        self._clients += 1
        try:
            if self._clients <= MAX_CLIENTS:
                await self._serve_requests(client, caller)
        except (ClientGone, ResponseCut) as exc:
            log.debug("client.lost", reason=str(exc))
            await client.abort()
        except Exception:  # a bug that one request meets must not end everybody else's
            log.exception("client.failed")
            await client.abort()
        finally:
            self._clients -= 1
            await client.aclose()

    async def _serve_requests(self, client: ServerConnection, caller: Caller | None) -> None:
        """Serve one request after the other until the client leaves, or one is malformed."""
        try:
            await self._serve_in_turn(client, caller)
        except BadRequest as exc:
            await client.refuse(exc)

    async def _serve_in_turn(self, client: ServerConnection, caller: Caller | None) -> None:
        """Serve requests; there is one scope for all waits, as each scope costs some 5 µs."""
        head = None
        with trio.CancelScope() as scope:
            while True:
                head = None
                head = await self._next_head(client, scope)
                if head is None or scope.cancel_called:
                    break
                await self._answer(client, head, caller)
        if head is not None:  # it came in the moment in which the wait for it was cancelled
            await self._answer(client, head, caller)

    async def _next_head(
        self, client: ServerConnection, scope: trio.CancelScope
    ) -> RequestHead | None:
        """Wait for the next request; `scope` is cancelled if the proxy stops meanwhile."""
        if self._stopping.is_set():
            return None
        self._idle.add(scope)
        try:
            return await client.read_head()
        finally:
            self._idle.discard(scope)

    async def _answer(
        self, client: ServerConnection, head: RequestHead, caller: Caller | None
    ) -> None:
        started = perf_counter()
        routed: list[Route] = []
        try:
            exchanged = await self._forwarder.forward(client, head, routed.append, caller)
            status = exchanged.status
        except RequestRefused as exc:
            status = exc.status
            await _refuse(client, exc)
        service = routed[0].service if routed else ""
        self._metrics.observe(service, status, perf_counter() - started)


def _status(definitions: Definitions, settings: ProxySettings) -> dict[str, object]:
    """Return what the proxy adds to `myxo status`."""
    services = [{"name": name} for name in sorted(definitions.names())]
    return {"services": services, "port": settings.port}


async def _refuse(client: ServerConnection, refusal: RequestRefused) -> None:
    fields: list[Field] = [_TEXT]
    if refusal.retry_after_s is not None:
        fields.append((b"Retry-After", str(refusal.retry_after_s).encode()))
    await client.respond(refusal.status, fields, f"{refusal}\n".encode())
