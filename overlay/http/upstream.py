"""Connections to servers that requests are forwarded to, and the pool that keeps them for reuse."""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from math import inf
from types import TracebackType
from typing import Any

import trio

from overlay.http.body import BodyDecoder, body_decoder, encode_chunk, encode_end
from overlay.http.errors import BadResponse
from overlay.http.head import (
    FINAL,
    MAX_HEAD_BYTES,
    NO_BODY,
    UNTIL_CLOSE,
    BodyKind,
    Field,
    Framing,
    ResponseHead,
    framing_fields,
    parse_response_head,
    serialise_request,
)
from overlay.http.transport import HELD_BYTES, Transport, transport

_COUNTED = (BodyKind.NONE, BodyKind.LENGTH)
_NOTHING = body_decoder(NO_BODY)
"""Of a body that there is nothing left of, so all of them may share it."""

Dial = Callable[[], Awaitable[trio.abc.Stream]]


class UpstreamConnection:
    """A connection to a server, for one request after the other.

    Attributes:
        reused: it carried a request before.
        reusable: the last answer was read whole and the server keeps the connection.
        idle_since: of the pool.
        age: which of the pool's ages it was opened in.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_decoder",
        "_transport",
        "age",
        "idle_since",
        "reusable",
        "reused",
    )

    refused = False
    alone = False
    """A server of HTTP/1 has no way to say so."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._transport = transport(stream)
        self._buffer = b""
        self._decoder: BodyDecoder = body_decoder(NO_BODY)
        self._chunked = False
        self.reused = False
        self.reusable = False
        self.idle_since = 0.0
        self.age = 0

    async def send(self, *parts: bytes) -> None:
        """Send bytes of a request.

        Raises:
            SendFailed: the connection is lost.
        """
        self.reusable = False
        await self._transport.send(*parts)

    def hold_request(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """Take a whole request, to be sent soon; see `Upstream`."""
        if framing.kind is BodyKind.CHUNKED or len(payload) > HELD_BYTES:
            return False
        self._chunked = self.reusable = False
        head = serialise_request(method, target, headers, framing_fields(framing))
        return self._transport.hold(head + payload)

    async def send_request(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
        *,
        trailers: Sequence[Field] | None,
    ) -> None:
        """Send a head with the first bytes of its body, and its end too if `trailers` is not None.

        Raises:
            SendFailed: the connection is lost.
            ValueError: something in the head contains a line end.
        """
        head = serialise_request(method, target, headers, framing_fields(framing))
        self._chunked = framing.kind is BodyKind.CHUNKED
        self.reusable = False
        await self._transport.send(b"".join((head, *self._framed(payload, trailers))))

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None) -> None:
        """Send more of the body, and its end too if `trailers` is not None.

        Raises:
            SendFailed: the connection is lost.
        """
        if parts := self._framed(payload, trailers):
            await self.send(*parts)

    def _framed(self, payload: bytes, trailers: Sequence[Field] | None) -> Sequence[bytes]:
        if not self._chunked:
            return (payload,) if payload else ()
        parts = list(encode_chunk(payload)) if payload else []
        if trailers is not None:
            parts.append(encode_end(trailers))
        return parts

    def receive(self, within_s: float = inf) -> Coroutine[Any, Any, bytes | None]:
        """Return what arrived, b"" at the end, or None if nothing did in `within_s` seconds.

        Raises:
            trio.BrokenResourceError: the connection is lost.
        """
        return self._transport.receive(within_s)

    def take_whole(self, received: bytes, method: bytes) -> tuple[ResponseHead, bytes] | None:
        """Return an answer that `received` is, head and body; see `Upstream`."""
        start = received.find(b"\r\n\r\n") + 4
        if not 4 < start <= MAX_HEAD_BYTES or self._buffer:  # noqa: PLR2004
            return None
        try:
            head = parse_response_head(received[:start], method)
        except BadResponse:
            return None
        kind, length = head.framing
        if head.status < FINAL or kind not in _COUNTED or len(received) - start != length:
            return None
        self._decoder = _NOTHING
        return head, received[start:]

    def take_head(self, received: bytes, method: bytes) -> ResponseHead | None:
        """Return the head of the answer to `method` once it is complete; None asks for more bytes.

        The bytes that follow it wait for `take_body`.

        Raises:
            BadResponse: it is none.
        """
        # After an interim answer `received` is empty and the next head may be here already.
        searched = max(0, len(self._buffer) - 3) if received else 0
        self._buffer = self._buffer + received if self._buffer else received
        end = self._buffer.find(b"\r\n\r\n", searched)
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadResponse(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes")
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise BadResponse("the answer does not begin with an HTTP/1 status line")
            return None
        head = parse_response_head(self._buffer[: end + 4], method)
        self._buffer = self._buffer[end + 4 :]
        self._decoder = body_decoder(head.framing)
        return head

    @property
    def body(self) -> BodyDecoder:
        """Of the answer whose head was read last."""
        return self._decoder

    def take_body(self, received: bytes | None = None) -> bytes:
        """Return what belongs to the body of `received`, or of what came with the head.

        Args:
            received: b"" for the connection's end.

        Raises:
            MalformedBody: the body's framing is wrong, or it is cut.
        """
        decoder = self._decoder
        if received is None:
            received, self._buffer = self._buffer, b""
            if decoder.done:
                self._buffer = received
                return b""
            if not received:
                return b""
        if not received:
            decoder.end()
            return b""
        payload = decoder.feed(received)
        if decoder.done:
            self._buffer, decoder.leftover = decoder.leftover, b""
        return payload

    def finish(self, head: ResponseHead) -> None:
        """Take note that request and answer are complete; the server's wish decides about reuse."""
        complete = self._decoder.done and not self._buffer
        self.reusable = complete and head.keep_alive and head.framing is not UNTIL_CLOSE

    def switch(self) -> tuple[Transport, bytes]:
        """Hand over the connection, on which another protocol begins, with what came of it.

        Whoever lent this still closes it.
        """
        left, self._buffer = self._buffer, b""
        self.reusable = False
        return self._transport, left

    def quiet(self) -> bool:
        """Return whether the server neither closed nor sent anything unasked, without waiting."""
        return self._transport.quiet()

    async def abort(self) -> None:
        """Close at once."""
        self.reusable = False
        await self._transport.abort()


class Pool:
    """Idle connections to one target, the most recently used first out.

    `dial` opens one; what it raises passes through `acquire`. A connection is given back only after
    a finished exchange, and handed out again only if the server has neither closed it nor sent
    anything meanwhile. What a server closes in the very moment of reuse still fails: that is
    `UpstreamFailed.reused`, and `acquire(fresh=True)` avoids it.

    Args:
        dial: opens a connection.
        max_idle: connections that are kept; more are closed after use.
        idle_timeout_s: seconds after which an idle connection is not used any more; below what
            servers use (5 s in Node, 75 s in nginx), as far as one knows.
        max_open: connections at once; who wants one more waits for one to be given back.
    """

    __slots__ = (
        "_age",
        "_closed",
        "_dial",
        "_idle",
        "_idle_timeout_s",
        "_max_idle",
        "_max_open",
        "_now",
        "_open",
        "_waiting",
        "in_use",
    )

    def __init__(
        self,
        dial: Dial,
        *,
        max_idle: int = 32,
        idle_timeout_s: float = 30.0,
        max_open: float = inf,
    ) -> None:
        self._dial = dial
        self._max_idle = max_idle
        self._idle_timeout_s = idle_timeout_s
        self._max_open = max_open
        self._open = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._idle: deque[UpstreamConnection] = deque()
        self._closed = False
        self._age = 0
        self._now = trio.lowlevel.current_clock().current_time  # in a third of `trio.current_time`
        self.in_use = 0

    @property
    def idle(self) -> int:
        """How many connections wait for reuse."""
        return len(self._idle)

    def acquire(self, *, fresh: bool = False) -> "Lease":
        """Return a context manager that lends a connection; `fresh` never lends a used one."""
        return Lease(self, fresh=fresh)

    async def sweep(self) -> None:
        """Close what is idle for too long or was closed by the server; call it now and then."""
        oldest = trio.current_time() - self._idle_timeout_s
        kept: deque[UpstreamConnection] = deque()
        dropped: list[UpstreamConnection] = []
        for connection in self._idle:
            good = connection.idle_since > oldest and connection.quiet()
            (kept if good else dropped).append(connection)
        self._idle = kept
        for connection in dropped:
            await self.drop(connection)

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._closed = True
        while self._idle:
            await self.drop(self._idle.pop())

    async def renew(self) -> None:
        """Keep only connections that are opened from now on; others close when they are idle."""
        self._age += 1
        while self._idle:
            await self.drop(self._idle.pop())

    def take_idle(self) -> UpstreamConnection | None:
        """Return the connection that became idle last, if it stands; see `acquire`."""
        if not self._idle:
            return None
        connection = self._idle[-1]
        if connection.idle_since + self._idle_timeout_s < self._now():
            return None
        if not connection.quiet():
            return None
        connection.reused = True
        return self._idle.pop()

    async def take(self, *, fresh: bool) -> UpstreamConnection:
        """Return an idle connection that stands, or a new one; `acquire` is how to call it."""
        while True:
            while self._idle and not fresh:
                if (connection := self.take_idle()) is not None:
                    return connection
                await self.drop(self._idle.pop())
            if self._open < self._max_open:
                return await self._new()
            if self._idle:
                await self.drop(self._idle.popleft())
            else:
                await self._waiting.park()

    def keep(self, connection: UpstreamConnection) -> bool:
        """Return whether `connection` can be used again, and is kept for that; `drop` it if not."""
        kept = connection.reusable and connection.age == self._age and not self._closed
        if not kept or len(self._idle) >= self._max_idle:
            return False
        connection.idle_since = self._now()
        self._idle.append(connection)
        if self._max_open != inf:  # else nobody waits
            self._waiting.unpark()
        return True

    async def _new(self) -> UpstreamConnection:
        self._open += 1
        try:
            connection = UpstreamConnection(await self._dial())
        except BaseException:
            self._closed_one()
            raise
        connection.age = self._age
        return connection

    async def drop(self, connection: UpstreamConnection) -> None:
        """Close a connection that was taken."""
        try:
            await connection.abort()
        finally:
            self._closed_one()

    def _closed_one(self) -> None:
        self._open -= 1
        self._waiting.unpark()


class Lease:
    """Lends one connection of a pool for the length of an `async with`."""

    __slots__ = ("_connection", "_fresh", "_pool")

    def __init__(self, pool: Pool, *, fresh: bool) -> None:
        self._pool = pool
        self._fresh = fresh
        self._connection: UpstreamConnection | None = None

    async def __aenter__(self) -> UpstreamConnection:
        self._pool.in_use += 1
        try:
            found = None if self._fresh else self._pool.take_idle()
            self._connection = found or await self._pool.take(fresh=self._fresh)
        except BaseException:
            self._pool.in_use -= 1
            raise
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.in_use -= 1
        connection, self._connection = self._connection, None
        if connection is not None and not self._pool.keep(connection):
            await self._pool.drop(connection)
