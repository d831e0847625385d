"""The clients' connections: one request after the other on each, to its end or the proxy's."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter

import structlog
import trio

from overlay.http.connection import Limits, ServerConnection
from overlay.http.errors import BadRequest, ClientGone, ResponseCut, SpeaksHttp2
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import Field, RequestHead, is_grpc
from overlay.http.seam import Client
from overlay.http.transport import Transport
from proxy.errors import DeadlineOver, RequestRefused, UpstreamTooSlow
from proxy.frontend.grace import Grace
from proxy.frontend.places import OWN, Places
from proxy.layer4.connecting import connect
from proxy.layer4.tunnels import Tunnels
from proxy.request.fields import is_trusted, without_claims
from proxy.request.forwarding import Forwarder
from proxy.request.grpc import refusal as grpc_refusal
from proxy.route.caller import Caller, Origin
from proxy.succession.messages import Moved
from proxy.telemetry.decisions import Decision
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.telemetry import Outcome, Telemetry

Sender = Callable[[RequestHead], tuple[RequestHead, Origin]]
"""Tells of a request that was passed on what its client sent, and whose it is."""

LAST_S = 5.0
"""How long a connection that cannot go to the process that takes over waits for one more request,
whose answer says that it was the last: to close it at once may cross with a request."""

Move = Callable[[Moved, int], Awaitable[bool]]
"""Hands a connection over by its descriptor; returns whether that was done."""

_OK = 200
_LOOPBACK = "127.0.0.1"
_TEXT: Field = (b"Content-Type", b"text/plain; charset=utf-8")

log = structlog.get_logger()


async def unknown() -> Caller | None:
    """Say that nobody knows which instance a connection is of."""
    return None


class Clients:
    """Serves client connections.

    Args:
        forwarder: has their requests answered.
        tunnels: lead to instances, for CONNECT.
        grace: tells when the proxy stops; its `connections` run `serve`.
        metrics: counts connections.
        telemetry: tells of requests.
        limits: on what each may send.
        trusted: networks of clients that may tell who was before them; no container is in them.

    Attributes:
        move: hands connections over once another process has taken over.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        tunnels: Tunnels,
        grace: Grace,
        metrics: ProxyMetrics,
        telemetry: Telemetry,
        limits: Limits,
        trusted: Iterable[str],
    ) -> None:
        self._limits = limits
        self._trusted = trusted
        self._forwarder = forwarder
        self._tunnels = tunnels
        self._telemetry = telemetry
        self._grace = grace
        self._metrics = metrics
        self._places = Places()
        self.move: Move | None = None
        metrics.connections.set_function(lambda: self._places.taken)

    async def serve(
        self,
        stream: trio.SocketStream,
        source: str = OWN,
        ask: Callable[[], Awaitable[Caller | None]] = unknown,
        received: bytes = b"",
    ) -> None:
        """Serve one connection to its end.

        Args:
            stream: the connection; it is closed.
            source: whose it is, for the bounds on connections.
            ask: finds out which instance of this machine it comes from.
            received: what another process has read of it.
        """
        if not self._places.take(source):
            self._metrics.turned_away("host" if source == OWN else "container")
            await trio.aclose_forcefully(stream)
            return
        try:
            origin = self._origin(stream, source, sandboxed=ask is not unknown)
            await self._serve(ServerConnection(stream, self._limits, received), origin, ask)
        finally:
            self._places.leave(source)

    async def serve_outside(
        self, stream: trio.abc.Stream, origin: Origin, received: bytes = b""
    ) -> None:
        """Serve one connection from outside to its end; it is closed."""
        await self._serve(ServerConnection(stream, self._limits, received), origin, unknown)

    async def serve_passed_on(self, stream: trio.SocketStream, sender: Sender) -> None:
        """Serve one connection of a proxy of ours before this one to its end; it is closed."""
        await self._serve(ServerConnection(stream, self._limits), sender, unknown)

    async def _serve(
        self,
        client: ServerConnection,
        origin: Origin | Sender,
        ask: Callable[[], Awaitable[Caller | None]],
    ) -> None:
        try:
            caller = await ask()
            if caller is not None and isinstance(origin, Origin):
                origin = replace(origin, caller=caller, who=caller.service)
            await self._serve_requests(client, origin)
        except (ClientGone, ResponseCut) as exc:
            log.debug("client.lost", reason=str(exc))
            await client.abort()
        except Exception:  # a bug that one request meets must not end everybody else's
            log.exception("client.failed")
            await client.abort()
        finally:
            await client.aclose()

    async def _serve_requests(self, client: ServerConnection, origin: Origin | Sender) -> None:
        """Serve one request after the other until the client leaves, or one is malformed."""
        try:
            await self._serve_in_turn(client, origin)
        except SpeaksHttp2 as exc:
            await self.serve_http2(exc.transport, origin, exc.received)
        except BadRequest as exc:
            await client.refuse(exc)

    async def serve_http2(
        self, connection: Transport, origin: Origin | Sender, received: bytes = b""
    ) -> None:
        """Serve a connection that speaks HTTP/2 to its end, each of its requests by itself."""

        async def answer(client: ServerStream, head: RequestHead) -> None:
            try:
                await self._answer(client, head, origin)
            except BadRequest as exc:
                if client.answering or not is_grpc(head):
                    raise
                await client.respond(_OK, grpc_refusal(exc.status, exc.reason, None))

        await serve_http2(
            connection,
            answer,
            stopping=self._grace.stopping,
            received=received,
            limits=self._limits,
        )

    async def _serve_in_turn(self, client: ServerConnection, origin: Origin | Sender) -> None:
        """Serve requests; there is one scope for all waits, as each scope costs some 5 µs."""
        idle, stopping = self._grace.idle, self._grace.stopping
        head = None
        with trio.CancelScope() as scope:
            while not stopping.is_set():
                idle.add(scope)  # is cancelled if the proxy stops meanwhile
                try:
                    head = await client.read_head()
                finally:
                    idle.discard(scope)
                if head is None or stopping.is_set():
                    break
                await self._answer(client, head, origin)
                head = None
        if head is not None:  # it came in the moment in which the wait for it was cancelled
            await self._answer(client, head, origin)
        if self.move is not None:
            await self._leave_to_another(client, origin, self.move)

    async def _leave_to_another(
        self, client: ServerConnection, origin: Origin | Sender, move: Move
    ) -> None:
        """Hand a connection to the process that takes over, or answer one last request on it."""
        between = client.between_requests()
        if between is not None and isinstance(origin, Origin):
            descriptor, received = between
            if await move(_moved(origin, received), descriptor):
                client.moved()
                return
        head = None
        with trio.move_on_after(LAST_S):
            head = await client.read_head()
        if head is not None:
            client.must_close = True
            await self._answer(client, head, origin)

    async def _answer(self, client: Client, head: RequestHead, sender: Origin | Sender) -> None:
        head, origin = (head, sender) if isinstance(sender, Origin) else sender(head)
        began, outcome = perf_counter(), Outcome()
        outside = origin.exposure is not None
        if outside:
            head = without_claims(head)
        decided: list[Decision] = []

        def begun(decision: Decision) -> None:
            decided.append(decision)
            self._telemetry.begun(decision, head)

        try:
            if head.method == b"CONNECT" and not outside:
                exchanged = await connect(self._tunnels, client, head, origin)
            else:
                exchanged = await self._forwarder.forward(client, head, begun, origin)
            outcome.status = exchanged.status
            outcome.received_bytes = exchanged.received_bytes
            outcome.sent_bytes = exchanged.sent_bytes
        except RequestRefused as exc:
            outcome.status = exc.status
            await refuse(client, head, exc, _told(exc, origin))
        except BadRequest as exc:
            outcome.status = exc.status
            raise
        except ResponseCut as exc:
            outcome.status, outcome.cut = exc.status, True
            raise
        finally:
            decision = decided[0] if decided else None
            self._telemetry.ended(head, decision, outcome, perf_counter() - began, origin.who)

    def _origin(self, stream: trio.SocketStream, source: str, *, sandboxed: bool) -> Origin:
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # it has left already
            address = "unknown"
        return _origin(
            address,
            source,
            trusted=not sandboxed and is_trusted(address, self._trusted),
            sandboxed=sandboxed,
        )


@lru_cache(maxsize=1024)
def _origin(address: str, source: str, *, trusted: bool, sandboxed: bool) -> Origin:
    """Return the same object for the same client: what is remembered of it is compared by that."""
    return Origin(
        address,
        trusted=trusted,
        who=source or _LOOPBACK,
        source=source,
        sandboxed=sandboxed,
    )


def _moved(origin: Origin, received: bytes) -> Moved:
    caller = origin.caller
    return Moved(
        source=origin.source,
        service=None if caller is None else caller.service,
        instance=None if caller is None else caller.instance,
        sandboxed=origin.sandboxed,
        outside=origin.exposure is not None,
        received=received.decode("latin-1"),
    )


def _told(refusal: RequestRefused, origin: Origin) -> str:
    """Return what a client is told; one from outside nothing of what is inside."""
    if origin.exposure is not None:
        return f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
    return refusal.in_full() if origin.local else str(refusal)


async def refuse(
    client: Client, head: RequestHead, refusal: RequestRefused, text: str = ""
) -> None:
    """Answer a request that the proxy does not forward, by default with the refusal's words."""
    text = text or str(refusal)
    if is_grpc(head):
        late = isinstance(refusal, DeadlineOver | UpstreamTooSlow)
        told = grpc_refusal(refusal.status, text, refusal.retry_after_s, late=late)
        await client.respond(_OK, told)
        return
    fields: list[Field] = [_TEXT]
    if refusal.retry_after_s is not None:
        fields.append((b"Retry-After", str(refusal.retry_after_s).encode()))
    await client.respond(refusal.status, fields, f"{text}\n".encode())
