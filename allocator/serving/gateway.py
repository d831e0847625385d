"""The gateway: where requests from other machines' proxies enter for this machine's instances.

A connection is TLS 1.3 with certificates on both ends. Whoever knows the passphrase can issue one,
so what counts is the pin: the key in the caller's leaf must be the one that a living member names
in its signed record. In TLS 1.3 a client's handshake succeeds before the server has judged it;
therefore the gateway says one line when it has, and a client sends nothing before that, so that a
refusal is always safe to try elsewhere. After it the connection speaks HTTP/1.1, each request
naming its instance in `Myxo-Instance`.

A program that speaks HTTP and nothing else, such as a proxy's Envoy, asks for another protocol by
ALPN, `myxo-http/1`: nothing is said before the first request, which is where a refusal is answered.
As such a program knows machines and not what is under way at their instances, it may say of which
service and revision an instance is meant, in `Myxo-Any-Of: SERVICE/REVISION`. The one with the
least under way gets the request, if one has room.

A machine that nobody can dial has its requests carried by the overlay, whose connections are
authenticated as peers: the same line, and the same from there on.

    MYXO/1 OK            the connection is accepted
    MYXO/1 REFUSED why   it is closed
    421 Myxo-Refused     no instance got the request; it may be sent to another one
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf

import structlog
import trio

from allocator.errors import InstanceGone
from allocator.instances.instance import Instance
from allocator.instances.instances import Instances
from allocator.metrics import AllocatorMetrics
from overlay.connection import Connection, MuxedBytes
from overlay.http.carried import SEND_TIMEOUT_S, CarriedStream
from overlay.http.connection import Limits, ServerConnection
from overlay.http.errors import BadRequest, ClientGone, ResponseCut, UpstreamFailed
from overlay.http.exchange import Switched, exchange
from overlay.http.gateway import ACCEPT_LINE
from overlay.http.h2_upstream import StreamPool
from overlay.http.head import Field, RequestHead, ResponseHead, end_to_end, get
from overlay.http.remembering import by_head
from overlay.http.seam import Source, Upstream
from overlay.http.tls_stream import TlsStream
from overlay.http.upstream import Pool
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.tls import ALPN_UNGREETED, PeerTls, pin_of
from overlay.tunnel import SocketEnd, framed, switching

HANDSHAKE_TIMEOUT_S = 5.0
MEMBER_WAIT_S = 2.0
"""How long a caller's record may be on its way: it may have heard of us before we of it."""

CONNECT_TIMEOUT_S = 1.0
"""An instance is on this machine; it accepts at once, or its queue is full."""

HEAR_OUT_BYTES = 1024 * 1024
HEAR_OUT_S = 5.0
"""What a refused request may have as its body, and how long that may take to come: an Envoy sends
no request elsewhere whose end it has not sent here, nor one of which it has not kept all."""

MAX_CONNECTIONS = 10_000
SWEEP_S = 5.0
CLOSE_S = 0.5
"""For closing the connections to instances, when the gateway stops."""

DRAIN_S = 1.5
"""Connections outlive the listener by this: longer than a stopping instance waits for requests."""

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""

_LIMITS = Limits(body_timeout_s=inf, stream_timeout_s=inf)
"""What is bounded is how slow a client may be, and the proxy before this does that."""

_CARRIED = replace(_LIMITS, send_timeout_s=SEND_TIMEOUT_S)

_MISDIRECTED, _BAD_GATEWAY, _UNAVAILABLE = 421, 502, 503
_OURS = b"myxo-"
_ANY_OF = b"myxo-any-of"
_MAX_DIGITS = 18
"""Of a revision's number."""

_VIA: Field = (b"Via", b"1.1 myxo-gateway")
_VIA_1_0: Field = (b"Via", b"1.0 myxo-gateway")

Answer = Callable[[ServerConnection, RequestHead, str], Awaitable[None]]
"""Answers a request that is for the allocator itself; gets who asks: a pin, or a peer id."""

log = structlog.get_logger()


def _source(instance: Instance, nursery: trio.Nursery) -> Source:
    """Return what lends connections to an instance, whatever version of HTTP it speaks."""

    async def dial() -> trio.abc.Stream:
        host, _, port = instance.address.rpartition(":")
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                return await trio.open_tcp_stream(host, int(port))
        except (OSError, trio.TooSlowError) as exc:
            text = f"the instance at {instance.address} does not accept: {exc}"
            raise InstanceGone(text) from exc

    return StreamPool(dial, nursery) if instance.spec.protocol == "h2c" else Pool(dial)


class Gateway:
    """Takes requests of members to instances, and counts them.

    Args:
        instances: what runs here.
        tls: this peer's contexts.
        is_member: whether a living member has the TLS key with this pin.
        is_peer: whether this peer is a living member.
        members_changed: returns when that may have changed.
        metrics: counts.

    Attributes:
        own: by the beginning of a target, who answers requests that name no instance.
    """

    def __init__(
        self,
        instances: Instances,
        tls: PeerTls,
        is_member: Callable[[str], bool],
        is_peer: Callable[[PeerId], bool],
        members_changed: Callable[[], Awaitable[None]],
        metrics: AllocatorMetrics,
    ) -> None:
        self._instances = instances
        self._tls = tls
        self._is_member = is_member
        self._is_peer = is_peer
        self._members_changed = members_changed
        self._metrics = metrics
        self.own: dict[bytes, Answer] = {}
        self._pools: dict[InstanceId, Source] = {}
        self._connections = 0
        self._holder: trio.Nursery | None = None
        self._links: trio.Nursery | None = None
        self._idle: set[trio.CancelScope] = set()
        self._callers: dict[trio.CancelScope, str] = {}
        self._stopping = trio.Event()
        instances.use.partings.append(self._part)

    async def serve(
        self,
        listener: trio.SocketListener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; requests under way then get `DRAIN_S` seconds to end."""
        async with trio.open_nursery() as nursery:
            connections = self._holder = await nursery.start(self._hold_connections)
            nursery.start_soon(self._sweep)
            task_status.started()
            try:
                await trio.serve_listeners(
                    self._serve_stream, [listener], handler_nursery=connections
                )
            finally:
                self._stopping.set()

    async def serve_carried(self, connection: Connection, stream: MuxedBytes) -> None:
        """Serve a connection that the overlay carries, from `connection`'s peer, to its end."""
        if self._holder is None or self._stopping.is_set():
            await stream.reset()
            return
        ended = trio.Event()
        carried = CarriedStream(stream, connection.peer)
        self._holder.start_soon(self._serve_carried, carried, connection.peer, ended)
        await ended.wait()

    def cut(self, pin: str) -> None:
        """End every connection of the caller with this pin, whatever is under way on it.

        Nothing else does so: a proxy that membership takes for dead may be well, and its requests
        be on their way.
        """
        for scope in [scope for scope, held in self._callers.items() if held == pin]:
            scope.cancel()

    async def _hold_connections(
        self, *, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the connections; when the listener is gone, give them a deadline."""
        async with trio.open_nursery() as links:  # what requests need lasts until they have ended
            links.cancel_scope.shield = True
            self._links = links
            async with trio.open_nursery() as connections:
                connections.cancel_scope.shield = True
                task_status.started(connections)
                await self._stopping.wait()
                connections.cancel_scope.deadline = trio.current_time() + DRAIN_S
                for scope in self._idle:
                    scope.cancel()
            with trio.move_on_after(CLOSE_S):
                for pool in list(self._pools.values()):
                    await pool.aclose()
            links.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Close idle connections that are old, and those to instances that are gone."""
        while True:
            await trio.sleep(SWEEP_S)
            there = self._instances.use.load()
            for instance in self._pools.keys() - there.keys():
                await self._part(instance)
            for pool in list(self._pools.values()):
                await pool.sweep()

    async def _part(self, instance: InstanceId) -> None:
        """Close the connections to an instance before it ends.

        Those that its end closes are closed towards a dead address, and whoever gets that address
        next could not be reached for up to a second.
        """
        found = self._pools.pop(instance, None)
        if found is not None:
            await found.aclose()

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        tls = TlsStream(stream, self._tls.server_context, server_side=True)
        self._connections += 1
        try:
            with trio.CancelScope() as scope:
                if await self._admit(tls, scope):
                    await self._serve_client(
                        ServerConnection(tls, _LIMITS), self._callers[scope], scope
                    )
        except trio.BrokenResourceError as exc:
            log.debug("gateway.connection_lost", error=str(exc))
        except Exception:  # a bug that one connection meets must not end all others
            log.exception("gateway.connection_failed")
        finally:
            self._connections -= 1
            self._callers.pop(scope, None)
            await trio.aclose_forcefully(tls)

    async def _serve_carried(self, carried: CarriedStream, peer: PeerId, ended: trio.Event) -> None:
        self._connections += 1
        try:
            stranger = "this peer is no member of this network"
            refusal = await self._refusal(lambda: self._is_peer(peer), stranger)
            if await self._say(refusal, carried):
                with trio.CancelScope() as scope:
                    client = ServerConnection(carried, _CARRIED)
                    await self._serve_client(client, peer, scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.debug("gateway.connection_lost", error=str(exc))
        except Exception:  # as above
            log.exception("gateway.connection_failed")
        finally:
            self._connections -= 1
            ended.set()
            await trio.aclose_forcefully(carried)

    async def _admit(self, tls: TlsStream, scope: trio.CancelScope) -> bool:
        """Return whether the caller is a member, and say so to it."""
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
            await tls.do_handshake()
            pin = self._callers[scope] = pin_of(tls.peer_certificate())
            stranger = "no member of this network has this certificate"
            refusal = await self._refusal(lambda: self._is_member(pin), stranger)
            if tls.alpn == ALPN_UNGREETED:
                return not refusal or await self._turn_away(refusal, tls)
            return await self._say(refusal, tls)
        return False

    async def _turn_away(self, refusal: str, tls: TlsStream) -> bool:
        """Refuse the first request, and the connection with it; return False."""
        self._metrics.gateway("stranger")
        log.warning("gateway.refused", reason=refusal)
        client = ServerConnection(tls, _LIMITS)
        try:
            head = await client.read_head()
            if head is not None:
                client.must_close = True
                await self._refuse(client, head, refusal)
        except BadRequest as exc:
            await client.refuse(exc)
        except ClientGone as exc:
            log.debug("gateway.request_lost", reason=str(exc))
        finally:
            await client.aclose()
        return False

    async def _say(self, refusal: str, stream: trio.abc.SendStream) -> bool:
        """Tell the caller whether it is accepted, which is returned."""
        if not refusal:
            await stream.send_all(ACCEPT_LINE)
            return True
        self._metrics.gateway("stranger")
        log.warning("gateway.refused", reason=refusal)
        await stream.send_all(f"MYXO/1 REFUSED {refusal}\r\n".encode())
        return False

    async def _refusal(self, is_known: Callable[[], bool], stranger: str) -> str:
        if self._connections > MAX_CONNECTIONS:
            return f"{MAX_CONNECTIONS} connections are open here"
        with trio.move_on_after(MEMBER_WAIT_S):
            while not is_known():
                await self._members_changed()
        return "" if is_known() else stranger

    async def _serve_client(
        self, client: ServerConnection, caller: str, scope: trio.CancelScope
    ) -> None:
        """Serve one request after the other; between them `scope` may be cancelled."""
        try:
            while await self._serve_request(client, caller, scope):
                pass
        except (ClientGone, ResponseCut) as exc:
            self._metrics.gateway("cut")
            log.debug("gateway.request_lost", reason=str(exc))
            await client.abort()
        finally:
            await client.aclose()

    async def _serve_request(
        self, client: ServerConnection, caller: str, scope: trio.CancelScope
    ) -> bool:
        """Serve one request; return whether there may be another."""
        head = None
        try:
            self._idle.add(scope)
            try:
                head = await client.read_head()
            finally:
                self._idle.discard(scope)
            if head is None:
                return False
            named = self._named(head)
            own = self._own(head.target) if named is None else None
            if own is not None:
                await own(client, head, caller)
            else:
                await self._forward(client, head, caller, named or InstanceId(""))
        except BadRequest as exc:
            self._metrics.gateway("malformed")
            await client.refuse(exc)
        except InstanceGone as exc:
            await self._refuse(client, head, str(exc))
        return not client.must_close

    def _named(self, head: RequestHead) -> InstanceId | None:
        """Return the instance that a request is for, by its name or by what it is of.

        Raises:
            InstanceGone: none of what it says of which has room.
        """
        named = get(head.headers, b"myxo-instance")
        if named is not None:
            return InstanceId(named.decode("latin-1"))
        any_of = get(head.headers, _ANY_OF)
        if any_of is None:
            return None
        service, _, revision = any_of.decode("latin-1").partition("/")
        if not (revision.isascii() and revision.isdigit() and len(revision) <= _MAX_DIGITS):
            raise BadRequest(400, "Myxo-Any-Of is no SERVICE/REVISION")
        return self._instances.use.least_loaded((ServiceName(service), int(revision)))

    def _own(self, target: bytes) -> Answer | None:
        return next((own for begin, own in self.own.items() if target.startswith(begin)), None)

    async def _forward(
        self, client: ServerConnection, head: RequestHead, caller: str, named: InstanceId
    ) -> None:
        """Take one request to the instance called `named`.

        Raises:
            InstanceGone: it did not get there; the client is not answered yet.
        """
        if self._instances.use.rests(named):  # whoever sent it has not heard of that yet
            await self._instances.awake(named)
        with self._instances.use.request(named) as instance:
            try:
                try:
                    await self._exchange(client, head, instance, caller, fresh=False)
                except UpstreamFailed as exc:
                    if not _stale(exc, client, head):
                        raise
                    await self._exchange(client, head, instance, caller, fresh=True)
            except UpstreamFailed as exc:
                await self._report_failure(client, instance, exc)
                return
        self._metrics.gateway("served")

    async def _exchange(
        self,
        client: ServerConnection,
        head: RequestHead,
        instance: Instance,
        caller: str,
        *,
        fresh: bool,
    ) -> None:
        source = self._pools.get(instance.id)
        if source is None:
            if self._links is None:
                raise InstanceGone("the gateway is not open")
            source = self._pools[instance.id] = _source(instance, self._links)
        async with source.acquire(fresh=fresh) as upstream:
            begun = trio.current_time()
            await exchange(
                client,
                head,
                upstream,
                request_headers=[*_passed_on(head), _VIA],
                edit_response=partial(_with_load, instance=instance, begun=begun),
                edit_interim=_answered,
                switched=_switched(client, upstream, caller, instance) if head.upgrade else None,
            )

    async def _report_failure(
        self, client: ServerConnection, instance: Instance, failure: UpstreamFailed
    ) -> None:
        """Let the caller see what it would have seen without a gateway between."""
        self._metrics.gateway("failed")
        log.info("gateway.instance_failed", instance=instance.id, reason=failure.reason)
        if not failure.maybe_processed:
            raise InstanceGone(f"the instance {instance.id} failed: {failure.reason}")
        if failure.malformed:
            text = f"the instance {instance.id} failed: {failure.reason}\n"
            await client.respond(_BAD_GATEWAY, [], text.encode())
            return
        await client.abort()

    async def _refuse(
        self, client: ServerConnection, head: RequestHead | None, reason: str
    ) -> None:
        self._metrics.gateway("refused")
        status, headers = _MISDIRECTED, [(b"Myxo-Refused", b"gone")]
        of_any = head is not None and get(head.headers, _ANY_OF) is not None
        if of_any and not await _heard_out(client):
            client.must_close = True
            status, headers = _UNAVAILABLE, [(b"Retry-After", b"1")]
        headers.append((b"Content-Type", b"text/plain; charset=utf-8"))
        await client.respond(status, headers, f"{reason}\n".encode())


async def _heard_out(client: ServerConnection) -> bool:
    """Read the rest of a request; return whether it is as short as one has to be."""
    with trio.move_on_after(HEAR_OUT_S):
        try:
            while not client.body.complete and client.body.received <= HEAR_OUT_BYTES:
                await client.body.receive()
        except BadRequest as exc:
            log.debug("gateway.body_malformed", reason=str(exc))
            return False
        return client.body.received <= HEAR_OUT_BYTES
    return False


def _stale(failure: UpstreamFailed, client: ServerConnection, head: RequestHead) -> bool:
    """Return whether a kept connection was closed as it was reused, so that a new one may do."""
    harmless = not failure.maybe_processed or head.method in _IDEMPOTENT
    return failure.reused and harmless and client.body.replayable


def _with_load(response: ResponseHead, instance: Instance, begun: float) -> Sequence[Field]:
    service_time_s = trio.current_time() - begun
    return [
        *_answered(response),
        (b"Myxo-In-Flight", str(instance.load).encode()),
        (b"Myxo-Service-Time", f"{service_time_s:.6f}".encode()),
    ]


def _switched(
    client: ServerConnection, upstream: Upstream, caller: str, instance: Instance
) -> Switched | None:
    near = framed(PeerId(caller))
    return switching(client, upstream, near, SocketEnd, instance.spec.tunnel_bound_s)


def _passed_on(head: RequestHead | ResponseHead) -> list[Field]:
    """Leave out also what only gateways and proxies say to each other."""
    return [field for field in end_to_end(head) if not field[0].lower().startswith(_OURS)]


@by_head
def _answered(response: ResponseHead) -> list[Field]:
    """Return the fields to pass an answer on with, which often comes again, other than requests."""
    return [*_passed_on(response), _VIA if response.minor else _VIA_1_0]
