"""A client's HTTP/1 connection, seen from the server: requests in, answers out, in turn."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import NoReturn, Protocol

import trio

from overlay.http.body import BodyDecoder, body_decoder, encode_chunk, encode_end
from overlay.http.dates import date_field
from overlay.http.errors import BadRequest, ClientGone, MalformedBody, SpeaksHttp2
from overlay.http.head import (
    CHUNKED,
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    NO_BODY,
    BodyKind,
    Field,
    Framing,
    RequestHead,
    framing_fields,
    has_no_body,
    is_grpc,
    parse_request_head,
    reason_phrase,
    serialise_response,
    why_never_a_head,
)
from overlay.http.lingering import LINGER_S, linger
from overlay.http.transport import (
    HELD_BYTES,
    LEAST_RATE,
    READ_BYTES,
    SendFailed,
    SocketTransport,
    Transport,
    transport,
)

_CLOSE: Field = (b"Connection", b"close")
SERVER: Field = (b"Server", b"myxo")
_KEEP_ALIVE: Field = (b"Connection", b"keep-alive")
_OF_UNKNOWN_LENGTH = (BodyKind.CHUNKED, BodyKind.UNTIL_CLOSE)
"""No set: a member's hash is computed in Python, three times 0.3 µs for each answer."""
PREFACE_HEAD = b"PRI * HTTP/2.0\r\n\r\n"
"""What an HTTP/1 server sees of HTTP/2's preface, which was made to be refused (RFC 9113 §3.4)."""
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_WAITS_S = (0.01, 0.05, 0.2, 1.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may use of a connection.

    Attributes:
        idle_timeout_s: seconds between two requests, and before the first byte of the first one.
        head_timeout_s: seconds from a head's first byte to its last.
        body_timeout_s: seconds without a byte of a body that is awaited, and seconds in all that it
            may be awaited for more than its bytes take at `LEAST_RATE`.
        stream_timeout_s: seconds without a byte where the client may have nothing to say: in a call
            of gRPC, and once the answer has begun. There is no least rate then.
        send_timeout_s: the same as `body_timeout_s` of an answer that the client takes.
        drain_bytes: a body that nobody wanted is read up to here to keep the connection.
        max_body_bytes: a body above is refused with 413.
        replay_bytes: a body is remembered up to here, so that it can be sent to another upstream.
    """

    idle_timeout_s: float = 75.0
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    stream_timeout_s: float = 300.0
    send_timeout_s: float = 60.0
    drain_bytes: int = 64 * 1024
    max_body_bytes: float = inf
    replay_bytes: int = 64 * 1024

    def check_size(self, size: int) -> None:
        """Check that a body may have `size` bytes.

        Raises:
            BadRequest: that is too large (413).
        """
        if size > self.max_body_bytes:
            raise BadRequest(413, f"a body has {self.max_body_bytes} bytes at most here")


DEFAULT_LIMITS = Limits()


class BodySource(Protocol):
    """What a request's body is read from.

    Attributes:
        limits: of the client.
        must_close: set where the body turns out to be malformed, or too slow.
    """

    limits: Limits
    must_close: bool

    @property
    def streams(self) -> bool:
        """Whether the client may be silent for long."""
        ...

    def take_buffered(self) -> bytes:
        """Return what came and was not used."""
        ...

    def put_back(self, data: bytes) -> None:
        """Keep what followed the body."""
        ...

    def check_size(self, size: int) -> None:
        """Take note that the body has at least `size` bytes, which may be too many."""
        ...

    async def receive_body(self, within_s: float) -> bytes | None:
        """Wait for more; b"" where there is none, None where it takes too long."""
        ...


class RequestBody:
    """The body of one request, read as it arrives and remembered while it is small.

    Attributes:
        framing: as the client announced it.
        received: bytes of the body that came from the client so far.
    """

    __slots__ = (
        "_connection",
        "_decoder",
        "_overflowed",
        "_position",
        "_remembered",
        "_waited_s",
        "framing",
        "received",
    )

    def __init__(
        self, connection: "BodySource", framing: Framing, decoder: BodyDecoder | None = None
    ) -> None:
        self._connection = connection
        self._decoder = None if framing.empty else decoder or body_decoder(framing)
        self._remembered: list[bytes] = []
        self._position = 0
        self._overflowed = False
        self._waited_s = 0.0
        self.framing = framing
        self.received = 0

    @property
    def complete(self) -> bool:
        """Everything that the client sends of it has been read from the connection."""
        return self._decoder is None or self._decoder.done

    @property
    def consumed(self) -> bool:
        """Everything has been handed out since the start or the last `rewind`."""
        return self.complete and self._position == len(self._remembered)

    @property
    def replayable(self) -> bool:
        """What has been handed out can be had again by `rewind`."""
        return not self._overflowed

    @property
    def trailers(self) -> Sequence[Field]:
        """The trailer fields, once the body is complete."""
        return () if self._decoder is None else self._decoder.trailers

    def rewind(self) -> None:
        """Begin again.

        Raises:
            ValueError: the body is not `replayable`.
        """
        if self._overflowed:
            raise ValueError("the request's body was too large to be remembered")
        self._position = 0

    def take(self) -> bytes:
        """Return what there is without waiting; b"" says nothing about the end.

        Raises:
            BadRequest: the body is malformed.
        """
        if self._decoder is None:
            return b""
        if self._position < len(self._remembered):
            data = b"".join(self._remembered[self._position :])
            self._position = len(self._remembered)
            return data
        return self._decode(self._connection.take_buffered()) if not self._decoder.done else b""

    async def receive(self) -> bytes:
        """Wait for bytes of the body; b"" is its end.

        Raises:
            BadRequest: the body is malformed, or came too slowly (408).
            ClientGone: the client left before the end.
        """
        while True:
            data = self.take()
            if data or self.consumed:
                return data
            data = self._decode(await self._receive())
            if data:
                return data

    async def _receive(self) -> bytes:
        """Wait for the client, who has a bound on each silence and on all of them."""
        connection, began = self._connection, trio.current_time()
        limits, streams = connection.limits, connection.streams
        still_s = limits.stream_timeout_s if streams else limits.body_timeout_s
        left_s = inf if streams else still_s + self.received / LEAST_RATE - self._waited_s
        data = await connection.receive_body(max(0.0, min(still_s, left_s)))
        self._waited_s += trio.current_time() - began
        if data is not None:
            return data
        connection.must_close = True
        if left_s < still_s:
            raise BadRequest(408, f"the body came at less than {LEAST_RATE:g} bytes a second")
        raise BadRequest(408, f"no more of the body came in {still_s:g} s")

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the rest of the body."""
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        while data := await self.receive():
            yield data

    def _decode(self, data: bytes) -> bytes:
        decoder = self._decoder
        if not data or decoder is None:
            return b""
        try:
            payload = decoder.feed(data)
        except MalformedBody as exc:
            self._connection.must_close = True
            raise BadRequest(400, exc.reason) from exc
        if decoder.done:
            self._connection.put_back(decoder.leftover)
            decoder.leftover = b""
        self.received += len(payload)
        self._connection.check_size(self.received)
        if payload:
            self._remember(payload)
        return payload

    def _remember(self, payload: bytes) -> None:
        if self._overflowed:
            return
        if self.received > self._connection.limits.replay_bytes:
            self._overflowed = True
            self._remembered.clear()
            self._position = 0
            return
        self._remembered.append(payload)
        self._position += 1


class ServerConnection:
    """A client's connection; requests are read one at a time, pipelined ones wait.

    Loop over `read_head`; answer each head by `respond` or by an `exchange`; call `aclose` at the
    end whatever happened. One task at a time.

    Args:
        stream: the connection, which is owned from now on.
        limits: of the client.
        received: what was read of it already, by another process.

    Attributes:
        limits: as given.
        body: of the request whose head was read last.
        answering: a byte of the final answer to it has been sent.
        must_close: the connection ends after this answer.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_client_ended",
        "_framing_out",
        "_head",
        "_none",
        "_transport",
        "answering",
        "body",
        "limits",
        "must_close",
    )

    def __init__(
        self, stream: trio.abc.Stream, limits: Limits = DEFAULT_LIMITS, received: bytes = b""
    ) -> None:
        self._transport = transport(stream, limits.send_timeout_s)
        self._buffer = received
        self._head: RequestHead | None = None
        self._framing_out = NO_BODY
        self._answered = True
        self._client_ended = False
        self.limits = limits
        self.body = self._none = RequestBody(self, NO_BODY)
        self.answering = False
        self.must_close = False

    async def read_head(self) -> RequestHead | None:
        """Return the next request's head, or None when there will be none.

        None means that the client closed between requests, stayed idle too long, or that the
        connection cannot carry another request.

        Raises:
            BadRequest: answer it with `refuse`, then close.
            SpeaksHttp2: hand the connection over, or refuse that, too.
        """
        if self.must_close or not self._answered:
            return None
        if self.body is not self._none and not (self.body.complete or await self._drain()):
            return None
        data: bytes | None = None
        try:
            if not self._buffer:
                self._buffer = await self._receive_first()
            if self._buffer:
                data = self._whole_head() or await self._receive_head()
            if data is None:
                self.must_close = True
                return None
            head = parse_request_head(data)
            if head.framing is not NO_BODY:
                self.check_size(head.framing.length)
        except BadRequest:
            if self._head is None and data == PREFACE_HEAD:
                self._speaks_http2()
            self._head = None
            self.must_close = True
            self._answered = False
            raise
        self._head = head
        self.body = self._none if head.framing is NO_BODY else RequestBody(self, head.framing)
        self.answering = False
        self._answered = False
        self.must_close = not head.keep_alive
        return head

    async def respond(
        self, status: int, headers: Sequence[Field] = (), body: bytes = b"", reason: bytes = b""
    ) -> None:
        """Answer the current request from memory.

        Date, Server, framing and Connection fields are added here.

        Raises:
            ClientGone: the client is not there any more.
            ValueError: a field contains a line end.
        """
        if not self._can_drain():
            self.must_close = True
        framing = Framing(BodyKind.LENGTH, len(body))
        if has_no_body(status):
            framing, body = NO_BODY, b""
        own = (date_field(), SERVER)
        fields = [*own, *headers, *framing_fields(framing), *self._connection_fields()]
        head = serialise_response(status, reason or reason_phrase(status), fields)
        self.answering = True
        message = head if self._is_head_request() else head + body
        if not self._transport.hold(message):
            await self._send(message)
        self._answered = True

    async def refuse(self, fault: BadRequest) -> None:
        """Answer a request that is wrong, in plain text, and let the connection end."""
        self.must_close = True
        text = f"{fault.reason}\n".encode("ascii", "backslashreplace")
        with suppress(ClientGone):
            await self.respond(fault.status, [(b"Content-Type", b"text/plain")], text)

    async def send_continue(self) -> None:
        """Tell a client that expects it to send its body now; others get nothing.

        Raises:
            ClientGone: the client is not there any more.
        """
        if self._head is not None and self._head.expects_continue and not self.body.complete:
            await self._send(_PROBE)

    async def send_informational(
        self, status: int, reason: bytes, headers: Sequence[Field]
    ) -> None:
        """Pass a 1xx answer on; clients of HTTP/1.0 get none."""
        if self._head is not None and self._head.minor:
            await self._send(serialise_response(status, reason, headers))

    async def start_response(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
        *,
        trailers: Sequence[Field] | None = None,
    ) -> None:
        """Send a head with the first bytes of its body, and its end too if `trailers` is not None.

        An unknown length becomes chunked for HTTP/1.1 and the connection's end for HTTP/1.0.

        Raises:
            ClientGone: the client is not there any more.
        """
        if framing.kind in _OF_UNKNOWN_LENGTH:
            framing = CHUNKED
            if self._head is None or not self._head.minor:
                framing = Framing(BodyKind.UNTIL_CLOSE)
                self.must_close = True
        head = self._begin_response(status, reason, headers, framing)
        if framing is CHUNKED:
            parts = [head]
            if payload:
                parts += encode_chunk(payload)
            if trailers is not None:
                parts.append(encode_end(trailers))
            await self._send(b"".join(parts))
        elif len(payload) < READ_BYTES // 4:
            await self._send(head + payload)
        else:
            await self._send(head, payload)
        self._answered = trailers is not None

    def hold_response(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """Take a whole answer, to be sent soon.

        Returns:
            Whether it was taken; if not, `start_response` is how to send it.
        """
        if framing.kind in _OF_UNKNOWN_LENGTH or len(payload) > HELD_BYTES:
            return False
        head = self._begin_response(status, reason, headers, framing)
        self._answered = self._transport.hold(head + payload)
        return self._answered

    def _begin_response(
        self, status: int, reason: bytes, headers: Sequence[Field], framing: Framing
    ) -> bytes:
        """Return the head of an answer that is about to be sent."""
        own = framing_fields(framing)
        if self.must_close or self._head is None or not self._head.minor:
            own = (*own, *self._connection_fields())
        head = serialise_response(status, reason, headers, own)
        self._framing_out = framing
        self.answering = True
        return head

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None = None) -> None:
        """Send more of the body, and its end too if `trailers` is not None.

        Returns when the system took it, so that a slow client slows the sender.

        Raises:
            ClientGone: the client is not there any more.
        """
        parts: list[bytes] = []
        if self._framing_out is not CHUNKED:
            parts.append(payload)
        else:
            if payload:
                parts += encode_chunk(payload)
            if trailers is not None:
                parts.append(encode_end(trailers))
        if parts:
            await self._send(*parts)
        self._answered = trailers is not None

    async def switch(
        self, headers: Sequence[Field], status: int = HTTPStatus.SWITCHING_PROTOCOLS
    ) -> tuple[Transport, bytes]:
        """Answer 101, or 200 to a CONNECT, and hand over the connection.

        With it goes what came already of what follows. Call `aclose` all the same in the end.

        Raises:
            ClientGone: the client is not there any more.
        """
        self.must_close = self.answering = self._answered = self._client_ended = True
        await self._send(serialise_response(status, reason_phrase(status), headers))
        return self._transport, self.take_buffered()

    def between_requests(self) -> tuple[int, bytes] | None:
        """Return the socket's descriptor and what was read of the next request.

        None where another process could not go on with it: a request is under way, the connection
        is to end, or it is no plain socket.
        """
        if self.must_close or self._client_ended or not (self._answered and self.body.complete):
            return None
        if not isinstance(self._transport, SocketTransport) or self._transport.holds():
            return None
        return self._transport.fd, self._buffer

    def moved(self) -> None:
        """Take in that another process goes on with the connection; `aclose` is still to come."""
        self.must_close = self._client_ended = True

    async def until_gone(self) -> None:
        """Return when the client is known to have left; pipelined requests are kept meanwhile.

        Call only once the request has been read whole. An end of the client's direction alone is
        no sign that it left, as it may still read. It is asked by an interim answer, which every
        client of HTTP/1.1 ignores (RFC 9110 §15.2) and which makes the system of one that left
        reset the connection.
        """
        try:
            while len(self._buffer) <= READ_BYTES and not self._client_ended:
                data = await self._transport.receive()
                self._client_ended = not data
                self._buffer += data or b""
            if not self._client_ended:
                await trio.sleep_forever()
            if self._transport.half_closes:
                await self._until_reset()
        except (trio.BrokenResourceError, ClientGone):
            return

    async def aclose(self) -> None:
        """Close in order: a client that still sends gets the time to read the answer.

        An answer that is not complete is aborted.
        """
        if self.answering and not self._answered:
            await self.abort()
            return
        try:
            if not self._client_ended and self._may_have_unread():
                await linger(self._transport)
        finally:
            with trio.move_on_after(LINGER_S, shield=True), suppress(trio.BrokenResourceError):
                await self._transport.aclose()

    async def abort(self) -> None:
        """Close at once, so that an answer under way cannot be taken for a complete one."""
        self.must_close = True
        reset = self.answering and not self._answered
        await self._transport.abort(reset=reset and self._framing_out is not CHUNKED)

    def _speaks_http2(self) -> NoReturn:
        received = PREFACE_HEAD + self.take_buffered()
        self.must_close = self._client_ended = True
        raise SpeaksHttp2(self._transport, received)

    def take_buffered(self) -> bytes:
        """Return what was read and not used; for the current body."""
        data, self._buffer = self._buffer, b""
        return data

    def check_size(self, size: int) -> None:
        """Take note that the current body has at least `size` bytes.

        Raises:
            BadRequest: that is too large (413).
        """
        try:
            self.limits.check_size(size)
        except BadRequest:
            self.must_close = True
            raise

    def put_back(self, data: bytes) -> None:
        """Keep what followed the current body."""
        self._buffer = data

    @property
    def streams(self) -> bool:
        """See `BodySource`."""
        return self.answering or (self._head is not None and is_grpc(self._head))

    async def receive_body(self, within_s: float) -> bytes | None:
        """Wait for bytes that belong to the current body; None if none came in time.

        Raises:
            ClientGone: the client left.
        """
        try:
            data = await self._transport.receive(within_s)
        except trio.BrokenResourceError as exc:
            raise ClientGone("the client's connection broke in the middle of its request") from exc
        if data is not None and not data:
            self._client_ended = True
            raise ClientGone("the client left in the middle of its request")
        return data

    def _is_head_request(self) -> bool:
        return self._head is not None and self._head.method == b"HEAD"

    def _connection_fields(self) -> tuple[Field, ...]:
        if self.must_close:
            return (_CLOSE,)
        if self._head is not None and not self._head.minor:
            return (_KEEP_ALIVE,)
        return ()

    async def _send(self, *parts: bytes) -> None:
        try:
            await self._transport.send(*parts)
        except SendFailed as exc:
            self.must_close = True
            raise ClientGone("the client's connection is lost") from exc

    def _whole_head(self) -> bytes | None:
        """Return the next head if all of it is there, and nothing before it."""
        end = self._buffer.find(b"\r\n\r\n") + 4
        if not 4 < end <= MAX_HEAD_BYTES or self._buffer[:2] == b"\r\n":  # noqa: PLR2004
            return None
        data, self._buffer = self._buffer[:end], self._buffer[end:]
        return data

    async def _receive_head(self) -> bytes | None:
        """Return the next head, the first bytes of which are there; None where none comes."""
        searched = 0
        deadline = inf
        while True:
            if not self._buffer:
                self._buffer = await self._receive_first()
                if not self._buffer:
                    return None
            if self._buffer.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request
                self._buffer = self._buffer[2:]
                searched = 0
                continue
            end = self._buffer.find(b"\r\n\r\n", searched)
            if end >= 0 and end + 4 <= MAX_HEAD_BYTES:
                data = self._buffer[: end + 4]
                self._buffer = self._buffer[end + 4 :]
                return data
            self._check_incomplete_head(searched)
            searched = max(0, len(self._buffer) - 3)
            deadline = min(deadline, trio.current_time() + self.limits.head_timeout_s)
            received = await self._receive_more(deadline)
            if received is None:
                return None
            self._buffer += received

    def _check_incomplete_head(self, looked_at: int) -> None:
        if len(self._buffer) > MAX_HEAD_BYTES:
            if self._buffer.find(b"\r\n", 0, MAX_TARGET_BYTES) < 0:
                raise BadRequest(414, f"the target is longer than {MAX_TARGET_BYTES} bytes")
            raise BadRequest(431, f"the head is longer than {MAX_HEAD_BYTES} bytes")
        if self._buffer and self._buffer != b"\r":
            fault = why_never_a_head(self._buffer, looked_at)
            if fault is not None:
                raise BadRequest(400, fault)

    async def _receive_first(self) -> bytes:
        if self._client_ended:
            return b""
        try:
            return await self._transport.receive(self.limits.idle_timeout_s) or b""
        except trio.BrokenResourceError:
            return b""

    async def _receive_more(self, deadline: float) -> bytes | None:
        if self._client_ended:
            return None
        try:
            received = await self._transport.receive(max(0.0, deadline - trio.current_time()))
        except trio.BrokenResourceError:
            return None
        if received is None:
            raise BadRequest(408, f"the head took longer than {self.limits.head_timeout_s:g} s")
        if not received:
            self._client_ended = True
            raise BadRequest(400, "the head ended too early")
        return received

    def _can_drain(self) -> bool:
        """Whether what is left of the request's body may be read for the connection's sake."""
        if self.body.complete:
            return True
        if self._head is not None and self._head.expects_continue:
            return False
        framing = self.body.framing
        left = framing.length - self.body.received
        return framing.kind is BodyKind.LENGTH and left <= self.limits.drain_bytes

    async def _drain(self) -> bool:
        with trio.move_on_after(self.limits.head_timeout_s):
            try:
                while await self.body.receive():
                    pass
            except (BadRequest, ClientGone):
                return False
        return self.body.complete

    def _may_have_unread(self) -> bool:
        if self._head is None or self._buffer or not self.body.complete:
            return True
        return not self._transport.quiet()

    async def _until_reset(self) -> None:
        probed = False
        self._transport.probe()
        waits = iter(_PROBE_WAITS_S)
        while not self._transport.lost():
            if not (probed or self.answering or self._head is None or not self._head.minor):
                probed = True
                await self._send(_PROBE)
            await trio.sleep(next(waits, _PROBE_WAITS_S[-1]))
