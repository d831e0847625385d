"""Servers of HTTP/2 that requests are forwarded to: many requests at once on few connections.

    StreamPool      to one server, as `Pool` is for HTTP/1: it lends streams instead of connections
    UpstreamStream  one request on one of them: the same to `exchange` as an HTTP/1 connection

A stream is taken on the first connection with room, so that those opened for a burst become idle
and are closed. Connections are opened one at a time: whoever comes meanwhile waits for that one.
"""

from collections.abc import Sequence
from math import inf
from types import TracebackType

import structlog
import trio
from h2.errors import ErrorCodes

from overlay.errors import MyxoError
from overlay.http.errors import BadResponse
from overlay.http.h2_channel import Channel, ChannelBody, Loss
from overlay.http.h2_fields import regular_fields, request_fields, response_head
from overlay.http.h2_flow import MAX_STREAMS
from overlay.http.h2_frames import ConnectionFault
from overlay.http.h2_link import Link
from overlay.http.head import Field, Framing, ResponseHead, framing_fields
from overlay.http.transport import SendFailed, transport
from overlay.http.upstream import Dial

MAX_CONNECTIONS = 16
"""To one server: 1,600 requests at once; who wants one more waits."""

IDLE_TIMEOUT_S = 30.0
"""Seconds after which a connection without a request is closed."""

CLOSE_S = 2.5
"""For closing what is idle: longer than a link waits for the other end to read its last frames."""

_NEWS = b"\n"
"""What `receive` says where something came: what it was, the channel knows."""

log = structlog.get_logger()


class UpstreamStream:
    """One request to a server; see `seam.Upstream`.

    Attributes:
        reused: its connection carried a request before.
        body: of the answer.
    """

    __slots__ = ("_channel", "body", "reused")

    def __init__(self, channel: Channel, *, reused: bool) -> None:
        self._channel = channel
        self.body = ChannelBody(channel)
        self.reused = reused

    @property
    def refused(self) -> bool:
        """The server said that it did not look at the request."""
        return self._channel.loss in {Loss.LEFT, Loss.REFUSED}

    @property
    def alone(self) -> bool:
        """If it failed, it failed alone: its connection stands."""
        channel = self._channel
        return channel.lost is not None and channel.loss in {Loss.REFUSED, Loss.RESET}

    def hold_request(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """See `seam.Upstream`: others use the connection, too."""
        del method, target, headers, framing, payload
        return False

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
        """See `seam.Upstream`."""
        fields = request_fields(method, target, [*headers, *framing_fields(framing)])
        ended = trailers is not None and not payload and not trailers
        await self._channel.send_head(fields, end=ended)
        if ended or (not payload and trailers is None):
            return
        try:
            await self.send_body(payload, trailers=trailers)
        except SendFailed:
            if not self._channel.heads:
                raise  # else it was answered before it was read whole, which is in order

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None) -> None:
        """See `seam.Upstream`."""
        await self._channel.send_data(payload, end=trailers is not None and not trailers)
        if trailers:
            await self._channel.send_head(regular_fields(trailers), end=True)

    async def receive(self, within_s: float = inf) -> bytes | None:
        """See `seam.Upstream`; what came is not in what this returns.

        Raises:
            BadResponse: what came is no HTTP/2.
            trio.BrokenResourceError: the stream is lost.
        """
        channel = self._channel
        if not await channel.wait(within_s):
            return None
        if channel.lost is None or channel.has_something:
            return _NEWS
        if channel.loss is Loss.MALFORMED:
            raise BadResponse(channel.lost)
        raise trio.BrokenResourceError(channel.lost)

    def take_whole(self, received: bytes, method: bytes) -> tuple[ResponseHead, bytes] | None:
        """See `seam.Upstream`: what came is elsewhere."""
        del received, method
        return None

    def take_head(self, received: bytes, method: bytes) -> ResponseHead | None:
        """See `seam.Upstream`."""
        del received
        if not self._channel.heads:
            return None
        head = self._channel.heads.popleft()
        return response_head(head.fields, method, ended=head.ended)

    def take_body(self, received: bytes | None = None) -> bytes:
        """See `seam.Upstream`."""
        del received
        return self._channel.take()

    def finish(self, head: ResponseHead) -> None:
        """Do nothing: a stream is not used again."""

    def close(self) -> None:
        """Give the stream up, telling the server if the request or its answer is not complete."""
        self._channel.close(ErrorCodes.CANCEL)


class _Connection:
    """One connection of a pool."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.served = 0
        self.closed = trio.Event()

    @property
    def has_room(self) -> bool:
        """Another stream may be opened."""
        link = self.link
        most = min(MAX_STREAMS, link.h2.remote_settings.max_concurrent_streams)
        return not link.closed and not link.leaving and len(link.users) < most

    def open_stream(self, *, reused: bool) -> UpstreamStream:
        """Return a stream, if there is room."""
        self.served += 1
        return UpstreamStream(self.link.open_channel(), reused=reused)


class _Dialling:
    """A connection that is being opened, and everybody who waits for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.connection: _Connection | None = None
        self.failure: Exception | None = None


class StreamPool:
    """Connections to one server, shared by all requests to it.

    Args:
        dial: opens one; raises a `MyxoError` where that cannot be done.
        nursery: runs the connections.
        max_connections: at once.
        idle_timeout_s: seconds without a request after which a connection is closed.
    """

    def __init__(
        self,
        dial: Dial,
        nursery: trio.Nursery,
        *,
        max_connections: int = MAX_CONNECTIONS,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._dial = dial
        self._nursery = nursery
        self._max_connections = max_connections
        self._idle_timeout_s = idle_timeout_s
        self._connections: list[_Connection] = []
        self._dialling: _Dialling | None = None
        self._room = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def acquire(self, *, fresh: bool = False) -> "_StreamLease":
        """Return a context manager that lends a stream; `fresh` takes no used connection."""
        return _StreamLease(self, fresh=fresh)

    async def sweep(self) -> None:
        """Do nothing: each connection notices by itself that it is idle, or closed."""

    async def aclose(self) -> None:
        """Close what is idle, and what is in use when its last request has ended."""
        self._closed = True
        idle = [one for one in self._connections if not one.link.users]
        for connection in idle:
            connection.link.end()
        with trio.move_on_after(CLOSE_S):
            for connection in idle:
                await connection.closed.wait()

    async def take(self, *, fresh: bool) -> tuple[_Connection, UpstreamStream]:
        """Return a stream and its connection; `acquire` is how to call it."""
        while True:
            roomy = None if fresh else next((c for c in self._connections if c.has_room), None)
            if roomy is not None:
                return roomy, roomy.open_stream(reused=roomy.served > 0)
            if len(self._connections) >= self._max_connections:
                await self._room.park()
                fresh = False
                continue
            opened = await self._dialled()
            if opened.has_room:
                return opened, opened.open_stream(reused=False)

    def give_back(self, connection: _Connection, stream: UpstreamStream) -> None:
        """Take a stream back, complete or not."""
        stream.close()
        link = connection.link
        if (self._closed or link.leaving) and not link.users:
            link.end()
        self._room.unpark()

    async def _dialled(self) -> _Connection:
        """Open a connection, or wait for the one that is being opened."""
        dialling = self._dialling
        if dialling is None:
            dialling = self._dialling = _Dialling()
            self._nursery.start_soon(self._serve, dialling)
        await dialling.done.wait()
        if dialling.connection is None:
            raise dialling.failure or trio.BrokenResourceError("the pool's connections have ended")
        return dialling.connection

    async def _serve(self, dialling: _Dialling) -> None:
        connection = await self._open(dialling)
        if connection is None:
            return
        try:
            await connection.link.run()
        except ConnectionFault as exc:
            log.info("upstream.faulty", reason=str(exc), code=exc.code.name)
        except Exception:  # a bug that one connection meets must not end all others
            log.exception("upstream.failed")
        finally:
            self._connections.remove(connection)
            connection.closed.set()
            self._room.unpark_all()

    async def _open(self, dialling: _Dialling) -> _Connection | None:
        try:
            stream = await self._dial()
            link = Link(transport(stream), client=True, idle_timeout_s=self._idle_timeout_s)
            connection = dialling.connection = _Connection(link)
            self._connections.append(connection)
        except (MyxoError, OSError, trio.BrokenResourceError) as exc:
            dialling.failure = exc
            return None
        finally:
            self._dialling = None
            dialling.done.set()
        return connection


class _StreamLease:
    """Lends one stream of a pool for the length of an `async with`."""

    __slots__ = ("_fresh", "_lent", "_pool")

    def __init__(self, pool: StreamPool, *, fresh: bool) -> None:
        self._pool = pool
        self._fresh = fresh
        self._lent: tuple[_Connection, UpstreamStream] | None = None

    async def __aenter__(self) -> UpstreamStream:
        self._lent = await self._pool.take(fresh=self._fresh)
        return self._lent[1]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lent is not None:
            self._pool.give_back(*self._lent)
            self._lent = None
