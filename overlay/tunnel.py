"""Tunnels: bytes or datagrams to an instance as they are, where HTTP has no say.

On its own machine an instance is dialled, and a tunnel is a plain socket. To another machine it is
a connection to the gateway there that changes its protocol:

    GET /tunnel/tcp/INSTANCE HTTP/1.1         proxy ──► gateway
    Connection: Upgrade
    Upgrade: myxo-tunnel/1

    HTTP/1.1 101 Switching Protocols          or 421: the instance was not reached, try another

From there on it carries messages (`framing.py`): a piece of a stream of bytes or one datagram each,
and an end mark for the end of a direction. TLS can end neither one direction alone nor both in a
way that differs from a cut, which a protocol that ends by closing must be told apart from.

A tunnel is a ring: what one end says goes to the next one, what the last says to the first. Two
ends are a connection; a third one is what follows in a chain of services (`onward.py`), each of
which gets what the one before it said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

import trio

from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable, StreamCut
from overlay.framing import FramedStream
from overlay.http.connection import ServerConnection
from overlay.http.errors import HttpError
from overlay.http.exchange import Moved, Switched
from overlay.http.head import Field, get, serialise_request
from overlay.http.seam import Client, Upstream
from overlay.http.transport import BULK_BYTES, SocketTransport, Transport
from overlay.http.upstream import UpstreamConnection
from overlay.names import PeerId

Carries = Literal["tcp", "udp"]
"""What a tunnel carries: a stream of bytes, or datagrams."""

CARRIES: dict[str, Carries] = {"tcp": "tcp", "udp": "udp"}
"""By the words for it."""

TARGET = b"/tunnel/"
UPGRADE: tuple[Field, ...] = ((b"Connection", b"Upgrade"), (b"Upgrade", b"myxo-tunnel/1"))

MAX_REFUSAL_BYTES = 4096
"""Of the text that says why a tunnel is refused."""

_SWITCHED, _BAD_GATEWAY = 101, 502
_CLOSE_S = 1.0
"""For telling an end that a tunnel is over; it may not read any more."""


ONWARD = b"Myxo-Onward"
"""What follows in a chain; see `onward.py`."""


class TunnelRefused(MyxoError):
    """The gateway opens no tunnel to this instance; nothing was sent to it."""


class OnwardRefused(MyxoError):
    """The instance was reached, and what follows it in a chain cannot be had from there."""


class End(Protocol):
    """One end of a tunnel. Each method raises `trio.BrokenResourceError` if it is lost."""

    async def receive(self) -> bytes | None:
        """Return what it says next, None once it has ended its direction."""
        ...

    async def send(self, data: bytes) -> None:
        """Say something to it; returns when there is room for more."""
        ...

    async def finish(self) -> None:
        """Tell it that nothing more follows; it may go on."""
        ...

    async def aclose(self) -> None:
        """Let go of it in good order, once both directions have ended."""
        ...

    async def cut(self) -> None:
        """Let go of it so that it is not taken for an end in good order."""
        ...


class Why(StrEnum):
    """How a tunnel ended."""

    ENDED = "ended"
    LOST = "lost"
    IDLE = "idle"


@dataclass(slots=True)
class Relayed:
    """What a tunnel carried, in bytes, seen from its first end."""

    why: Why = Why.ENDED
    sent: int = 0
    received: int = 0


async def relay(ends: Sequence[End], idle_s: float) -> Relayed:
    """Carry what each end says to the next until all have ended, and let go of them.

    One that is lost, or `idle_s` seconds in which nothing moves, end it for all: they are cut, as
    they are if this is cancelled.
    """
    done, orderly = Relayed(), False
    try:
        with trio.move_on_after(idle_s) as quiet:
            async with trio.open_nursery() as nursery:

                async def carry(at: int) -> None:
                    source, sink = ends[at], ends[(at + 1) % len(ends)]
                    try:
                        while (data := await source.receive()) is not None:
                            quiet.deadline = trio.current_time() + idle_s
                            await sink.send(data)
                            quiet.deadline = trio.current_time() + idle_s
                            done.sent += len(data) if at == 0 else 0
                            done.received += len(data) if at == len(ends) - 1 else 0
                        await sink.finish()
                    except trio.BrokenResourceError:
                        done.why = Why.LOST
                        nursery.cancel_scope.cancel()

                for at in range(len(ends)):
                    nursery.start_soon(carry, at)
        if quiet.cancelled_caught:
            done.why = Why.IDLE
        orderly = done.why is Why.ENDED
        return done
    finally:
        await let_go(ends, orderly=orderly)


async def let_go(ends: Sequence[End], *, orderly: bool) -> None:
    """Close every end, or cut it; one that does not answer holds up nobody for long."""
    with trio.move_on_after(_CLOSE_S, shield=True):
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.aclose if orderly else end.cut)


class SocketEnd:
    """A TCP connection as an end.

    Args:
        transport: of the connection.
        left: what came on it already.
    """

    def __init__(self, transport: Transport, left: bytes = b"") -> None:
        self._transport = transport
        self._left = left
        if isinstance(transport, SocketTransport):
            transport.most_bytes = BULK_BYTES

    async def receive(self) -> bytes | None:
        """See `End`."""
        if self._left:
            left, self._left = self._left, b""
            return left
        return await self._transport.receive() or None

    async def send(self, data: bytes) -> None:
        """See `End`."""
        await self._transport.send(data)

    async def finish(self) -> None:
        """See `End`: what cannot end one direction alone, as TLS, ends both in good order."""
        if self._transport.half_closes:
            await self._transport.end()
        else:
            await self._transport.aclose()

    async def aclose(self) -> None:
        """See `End`."""
        await self._transport.aclose()

    async def cut(self) -> None:
        """See `End`."""
        await self._transport.abort(reset=True)


Make = Callable[[Transport, bytes], "End"]
"""Makes an end of a connection that changed its protocol and of what came on it already."""


def switching(
    client: Client, upstream: Upstream, near: Make, far: Make, idle_s: float
) -> Switched | None:
    """Return how an `exchange` goes on where both ends change their protocol; None if they cannot.

    Args:
        client: of HTTP/1 (there is no Upgrade in HTTP/2).
        upstream: of HTTP/1.
        near: makes an end of the client's connection.
        far: makes an end of the upstream's.
        idle_s: seconds in which nothing moves, after which both are given up.
    """
    if not isinstance(client, ServerConnection) or not isinstance(upstream, UpstreamConnection):
        return None
    server = upstream

    async def carry(fields: Sequence[Field]) -> Moved:
        here = near(*await client.switch(fields))
        relayed = await relay([here, far(*server.switch())], idle_s)
        return Moved(relayed.sent, relayed.received)

    return carry


def framed(peer: PeerId) -> Make:
    """Return how an end is made of a connection between a proxy and a gateway."""
    return lambda transport, left: FramedEnd(transport, left, peer, "tcp")


class FramedEnd:
    """What is behind a connection that changed its protocol.

    Args:
        transport: of the connection.
        left: what came on it already.
        peer: its other end.
        carries: what each message is; a datagram may be empty, which a message may not.

    Attributes:
        leads_on: what it says was said by the last service of a chain.
    """

    leads_on = False

    def __init__(self, transport: Transport, left: bytes, peer: PeerId, carries: Carries) -> None:
        self._framed = FramedStream(_Switched(transport, left), peer)
        self._mark = b"\0" if carries == "udp" else b""

    async def receive(self) -> bytes | None:
        """See `End`."""
        try:
            message = await self._framed.receive()
        except (StreamCut, MalformedMessage) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        return None if message is None else message[len(self._mark) :]

    async def send(self, data: bytes) -> None:
        """See `End`."""
        message = self._mark + data
        if not message:
            return  # an empty datagram that is to go into a stream
        try:
            await self._framed.send(message)
        except StreamCut as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def finish(self) -> None:
        """See `End`."""
        try:
            await self._framed.finish()
        except StreamCut as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def aclose(self) -> None:
        """See `End`."""
        await self._framed.aclose()

    async def cut(self) -> None:
        """See `End`."""
        await self._framed.aclose()  # without `finish` before it the other end sees a cut


async def ask_gateway(
    upstream: UpstreamConnection,
    target: bytes,
    owner: PeerId,
    carries: Carries,
    within_s: float,
    onward: str = "",
) -> FramedEnd:
    """Make a connection to the gateway of `owner` one end of a tunnel.

    Args:
        upstream: without an exchange under way; whoever lent it still closes it.
        target: of the request, after `TARGET`.
        owner: whose gateway.
        carries: what the tunnel carries.
        within_s: seconds for the answer.
        onward: what follows in a chain, which the gateway may have led on.

    Raises:
        TunnelRefused: the gateway says no, and why.
        OnwardRefused: what follows cannot be had from there.
        PeerUnreachable: the connection is lost, or there is no answer.
    """
    try:
        fields = [(b"Host", b"gateway"), *UPGRADE]
        if onward:
            fields.append((ONWARD, onward.encode()))
        await upstream.send(serialise_request(b"GET", TARGET + target, fields))
        with trio.fail_after(within_s):
            head = None
            while head is None:
                if not (data := await upstream.receive()):
                    raise PeerUnreachable(f"the gateway of {owner} closed without an answer")
                head = upstream.take_head(data, b"GET")
            if head.status == _BAD_GATEWAY and onward:
                raise OnwardRefused(await _text(upstream) or "the gateway does not say why")
            if head.status != _SWITCHED:
                raise TunnelRefused(await _text(upstream) or f"the gateway says {head.status}")
    except (trio.BrokenResourceError, HttpError, trio.TooSlowError) as exc:
        raise PeerUnreachable(f"the gateway of {owner} does not answer: {exc!r}") from exc
    end = FramedEnd(*upstream.switch(), owner, carries)
    end.leads_on = bool(onward) and get(head.headers, ONWARD.lower()) is not None
    return end


async def _text(upstream: UpstreamConnection) -> str:
    text = upstream.take_body()
    while not upstream.body.done and len(text) < MAX_REFUSAL_BYTES:
        text += upstream.take_body(await upstream.receive() or b"")
    return text[:MAX_REFUSAL_BYTES].decode("utf-8", "replace").strip()


class _Switched:
    """A connection's transport as `framing.ByteStream`."""

    def __init__(self, transport: Transport, left: bytes) -> None:
        self._transport = transport
        self._left = left

    async def read(self, n: int) -> bytes:
        if not self._left:
            try:
                self._left = await self._transport.receive() or b""
            except trio.BrokenResourceError as exc:
                raise StreamCut("the connection is lost") from exc
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    async def write(self, data: bytes) -> None:
        try:
            await self._transport.send(data)
        except trio.BrokenResourceError as exc:
            raise StreamCut("the connection is lost") from exc

    async def close(self) -> None:
        try:
            await self._transport.aclose()
        except trio.BrokenResourceError as exc:
            raise StreamCut("the connection is lost") from exc

    async def reset(self) -> None:
        await self._transport.abort(reset=True)
