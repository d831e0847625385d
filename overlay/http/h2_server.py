"""A client's HTTP/2 connection, seen from the server: each of its streams is one request.

    serve_http2(stream, answer)      the whole connection; `answer` gets every request as it comes
    ServerStream                     what `answer` answers: the same to its user as an HTTP/1 client

Requests are answered side by side, each in a task of its own, which ends when its client gives it
up. A task counts as one of the `MAX_STREAMS` until it has ended, and not only until its stream has,
so that streams that are opened and reset at once (CVE-2023-44487) make no more work than others.

A server that stops says GOAWAY twice (RFC 9113 §6.8): first that it is leaving, and a round trip
later, when every request has come that was sent before the client heard of it, which was the last.
A client that has no request under way is told the latter at once, and its connection closed: many
clients read nothing while they ask for nothing, and would keep the server from its end.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus

import structlog
import trio
from h2.errors import ErrorCodes

from overlay.http.connection import DEFAULT_LIMITS, SERVER, Limits, RequestBody
from overlay.http.dates import date_field
from overlay.http.errors import BadRequest, ClientGone, ResponseCut
from overlay.http.h2_channel import Channel, ChannelBody, Head
from overlay.http.h2_fields import MalformedHead, regular_fields, request_head, response_fields
from overlay.http.h2_flow import MAX_STREAMS
from overlay.http.h2_frames import MAX_STREAM, ConnectionFault
from overlay.http.h2_link import Link
from overlay.http.head import (
    NO_BODY,
    BodyKind,
    Field,
    Framing,
    RequestHead,
    framing_fields,
    has_no_body,
    is_grpc,
)
from overlay.http.transport import SendFailed, Transport

NOTICE_S = 1.0
"""For the round trip between the two GOAWAYs."""

IDLE_LINGER_S = 0.2
"""For an idle client to read that it is over; what it sends meanwhile it may send elsewhere."""

Answer = Callable[["ServerStream", RequestHead], Awaitable[None]]

log = structlog.get_logger()


class ServerStream:
    """One request of a client, to be answered once; see `seam.Client`.

    Attributes:
        limits: as given.
        body: of the request.
        answering: the final answer's head has been sent.
        must_close: of no meaning: the next request comes by another stream.
    """

    __slots__ = ("_channel", "_head", "_settled", "answering", "body", "limits", "must_close")

    def __init__(self, channel: Channel, head: RequestHead | None, limits: Limits) -> None:
        self._channel = channel
        self._head = head
        self._settled = False
        framing = NO_BODY if head is None else head.framing
        self.limits = limits
        self.body = RequestBody(self, framing, ChannelBody(channel))
        self.answering = False
        self.must_close = False

    @property
    def settled(self) -> bool:
        """The answer has been sent whole."""
        return self._settled

    async def respond(
        self, status: int, headers: Sequence[Field] = (), body: bytes = b"", reason: bytes = b""
    ) -> None:
        """Answer the request from memory; Date, Server and the length are added here."""
        framing = Framing(BodyKind.LENGTH, len(body))
        if has_no_body(status):
            framing, body = NO_BODY, b""
        if self._head is not None and self._head.method == b"HEAD":
            body = b""
        fields = [date_field(), SERVER, *headers]
        await self.start_response(status, reason, fields, framing, body, trailers=())

    async def refuse(self, fault: BadRequest) -> None:
        """Answer a request that is wrong, in plain text."""
        text = f"{fault.reason}\n".encode("ascii", "backslashreplace")
        with suppress(ClientGone):
            await self.respond(fault.status, [(b"Content-Type", b"text/plain")], text)

    async def send_informational(
        self, status: int, reason: bytes, headers: Sequence[Field]
    ) -> None:
        """Pass a 1xx answer on; there are no reasons in HTTP/2."""
        del reason
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            await self._send_head(response_fields(status, headers), end=False)

    def hold_response(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """See `seam.Client`: others use the connection, too."""
        del status, reason, headers, framing, payload
        return False

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
        """See `seam.Client`."""
        del reason
        fields = response_fields(status, [*headers, *framing_fields(framing)])
        self.answering = True
        ended = trailers is not None and not payload and not trailers
        await self._send_head(fields, end=ended)
        if ended:
            self._settled = True
        elif payload or trailers is not None:
            await self.send_body(payload, trailers=trailers)

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None = None) -> None:
        """See `seam.Client`."""
        try:
            await self._channel.send_data(payload, end=trailers is not None and not trailers)
        except SendFailed as exc:
            raise ClientGone("the client gave the request up") from exc
        if trailers:
            await self._send_head(regular_fields(trailers), end=True)
        self._settled = trailers is not None

    async def until_gone(self) -> None:
        """Return when the client has given the request up, or left."""
        await self._channel.until_lost()

    async def abort(self) -> None:
        """Reset the stream, so that an answer under way cannot be taken for a complete one."""
        self._channel.reset(ErrorCodes.INTERNAL_ERROR, "the answer was broken off")
        await trio.lowlevel.checkpoint()

    def take_buffered(self) -> bytes:
        """Return what came of the body."""
        return self._channel.take()

    def put_back(self, data: bytes) -> None:
        """Keep what followed the body: nothing does on a stream."""

    def check_size(self, size: int) -> None:
        """Take note that the body has at least `size` bytes.

        Raises:
            BadRequest: that is too large (413).
        """
        self.limits.check_size(size)

    @property
    def streams(self) -> bool:
        """See `BodySource`."""
        return self.answering or (self._head is not None and is_grpc(self._head))

    async def receive_body(self, within_s: float) -> bytes | None:
        """Wait for bytes of the body; b"" where it has ended, None if none came in time.

        Raises:
            ClientGone: the client left.
        """
        if not await self._channel.wait(within_s):
            return None
        data = self._channel.take()
        if not data and not self._channel.done:
            raise ClientGone("the client left in the middle of its request")
        return data

    async def _send_head(self, fields: Sequence[Field], *, end: bool) -> None:
        try:
            await self._channel.send_head(fields, end=end)
        except SendFailed as exc:
            raise ClientGone("the client gave the request up") from exc


class _Server:
    """One connection and the requests that are under way on it."""

    def __init__(
        self, connection: Transport, answer: Answer, limits: Limits, nursery: trio.Nursery
    ) -> None:
        self._answer = answer
        self._limits = limits
        self._nursery = nursery
        self._under_way = 0
        self._last: int | None = None
        self._idle = trio.lowlevel.ParkingLot()
        self.link = Link(
            connection,
            client=False,
            send_timeout_s=limits.send_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
            on_request=self._came,
        )

    async def drain(self, stopping: trio.Event) -> None:
        """Once `stopping` is set, take no new requests, and end when the others have ended."""
        await stopping.wait()
        if not self._under_way:
            self.link.end(IDLE_LINGER_S)
            return
        self.link.refuse_more(MAX_STREAM)
        with trio.move_on_after(NOTICE_S):
            await self.link.round_trip()
        self._last = self.link.h2.highest_inbound_stream_id
        self.link.refuse_more(self._last)
        while self._under_way:
            await self._idle.park()
        self.link.end()

    def _came(self, channel: Channel, head: Head) -> None:
        if self._under_way >= MAX_STREAMS or self._last is not None:
            self.link.refuse(channel, ErrorCodes.REFUSED_STREAM, "too many requests are under way")
            return
        try:
            parsed, fault = request_head(head.fields, ended=head.ended), None
            self._limits.check_size(parsed.framing.length)
        except MalformedHead as exc:
            self.link.refuse(channel, ErrorCodes.PROTOCOL_ERROR, str(exc))
            return
        except BadRequest as exc:
            parsed, fault = None, exc
        self._under_way += 1
        self._nursery.start_soon(self._serve, channel, parsed, fault)

    async def _serve(
        self, channel: Channel, head: RequestHead | None, fault: BadRequest | None
    ) -> None:
        """Have one request answered; it ends here, whatever becomes of it."""
        stream = ServerStream(channel, head, self._limits)
        try:
            with trio.CancelScope() as scope:
                channel.on_lost = scope.cancel
                if channel.lost is not None:
                    return
                if head is None or fault is not None:
                    await stream.refuse(fault or BadRequest(400, "the request is malformed"))
                else:
                    await self._answered(stream, head)
        finally:
            if stream.settled:
                self.link.answered()
            channel.close(ErrorCodes.NO_ERROR if stream.settled else ErrorCodes.INTERNAL_ERROR)
            self._under_way -= 1
            if not self._under_way:
                self._idle.unpark_all()

    async def _answered(self, stream: ServerStream, head: RequestHead) -> None:
        try:
            await self._answer(stream, head)
        except BadRequest as exc:
            if not stream.answering:
                await stream.refuse(exc)
        except (ClientGone, ResponseCut) as exc:
            log.debug("client.lost", reason=str(exc))
        except Exception:  # a bug that one request meets must not end everybody else's
            log.exception("client.failed")


async def serve_http2(
    connection: Transport,
    answer: Answer,
    *,
    stopping: trio.Event,
    received: bytes = b"",
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Serve a client that speaks HTTP/2 from its first byte on, and close its connection.

    That it does is known beforehand (RFC 9113 §3.3), agreed in the TLS handshake by ALPN `h2`, or
    seen by the first bytes, which `SpeaksHttp2` reports.

    Args:
        connection: owned from now on; `transport` makes one of a stream.
        answer: called with each request, in a task of its own that is cancelled if the client
            gives the request up. `BadRequest`, `ClientGone` and `ResponseCut` end it in order.
        stopping: when set, no more requests are taken and the connection ends after those under
            way; the caller cancels what takes too long.
        received: what was read of it already.
        limits: of the client.
    """
    async with trio.open_nursery() as nursery:
        server = _Server(connection, answer, limits, nursery)
        nursery.start_soon(server.drain, stopping)
        try:
            await server.link.run(received)
        except ConnectionFault as exc:
            log.debug("client.faulty", reason=str(exc), code=exc.code.name)
        nursery.cancel_scope.cancel()
