"""One authenticated, multiplexed connection to a peer: py-libp2p's layers, with its defects mended.

py-libp2p 0.8.1 gives the wire: private-network cipher, Noise, Yamux. Its swarm and host, which
dial, accept and hand out streams, are not used. They wait 250 ms on each dial, refuse a peer for
60 s after one failure, leak a slot for each inbound connection, die of an exception in a stream
handler, accept plaintext by default, re-dial by themselves and keep listening after they end.
What they did is done here and in `overlay/host.py`, in structured concurrency: a connection's
tasks live in one nursery, and when it ends, all of them have ended.

What is mended in the layers that are used:

- Yamux resets a stream whose reader has kept it waiting for 5 s. Here a writer enters Yamux only
  when the window is open, so that a slow reader makes it wait and nothing else.
- A write that is cancelled half-way leaves half a frame on the connection, which breaks it for
  every stream, and a full socket stops the task that reads, which answers pings: two such ends
  wait for each other for ever. Here bytes are queued in one step and sent by their own task.
- Yamux blocks silently at the 257th open stream. Here it is refused.
- Yamux sends a window update for each read and does not bound what a peer sends over its window.
  Here one is sent for each half of a window, which grows where the way is long: 256 KiB on the way
  at once are 2.6 MB/s at 100 ms there and back, and a relayed connection is a single stream.
- An exact read gives up after 100 short ones, however few bytes they were.
- A message passes seven locks, at each of which it waits for every other task's turn. Here a frame
  is encrypted and queued in one step, which needs none, and the others are quick ones.
"""

import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import structlog
import trio
from libp2p.abc import IMuxedStream, ISecureConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    TYPE_DATA,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from overlay import multistream
from overlay.errors import (
    MalformedMessage,
    MyxoError,
    PeerUnreachable,
    ProtocolRefused,
    StreamCut,
)
from overlay.names import PeerId
from overlay.quick_lock import QuickLock
from overlay.wire import Upgraded

MAX_STREAMS = 256
"""Open at once on one connection, for each direction; Yamux's own cap for the dialling one."""

NEGOTIATE_TIMEOUT_S = 10.0
"""For agreeing on a stream's protocol, on a connection that may be busy."""

_MAX_WINDOW_BYTES = 4 * 1024 * 1024
"""Of one stream: 40 MB/s at 100 ms there and back."""

_MAX_GROWTH_BYTES = 32 * 1024 * 1024
"""Of all windows of a connection together, over what they begin with."""

_MAX_UNREAD_BYTES = 64 * 1024 * 1024 + _MAX_GROWTH_BYTES
"""Received on a connection and not yet read; 256 streams with full windows."""

_CHECK_BYTES = 1024 * 1024
"""Received between two looks at how much is unread."""

_GROW_WITHIN_RTTS = 4
"""A window of which half is read in so many round trips holds its writer back (as go-yamux)."""

_CHUNK_BYTES = 65_535 - 16 - 12
"""A stream's part in one turn, which with Yamux's header fills one message of Noise; small ones
wait for no more than one of these per busy stream."""

_CLOSE_S = 0.5
"""For the last bytes of a connection that ends in good order."""

_LINGER_S = 10.0
"""How long a stream that ended here may wait for the other end to end it too."""

_POLL_S = 0.1
"""How often a writer that waits looks whether the connection is lost, of which nothing tells it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()

StreamServer = Callable[["Connection", "MuxedBytes"], Awaitable[None]]
"""Serves one inbound stream; what it raises ends that stream only."""


class _Muxer(Yamux):
    """Yamux that closes the connection of a peer that sends far more than was asked for."""

    def __init__(self, secured: ISecureConn, peer: ID, is_initiator: bool) -> None:
        super().__init__(secured, peer, is_initiator)
        self.streams_lock = QuickLock()  # type: ignore[assignment]  # used as a lock only
        self._unchecked = 0

    async def _write_frame(self, data: bytes) -> None:
        """Queue a frame; nothing waits before it is, so that frames come one after the other."""
        await self.secured_conn.write(data)

    async def _read_data_body(self, length: int) -> bytes:
        self._unchecked += length
        if self._unchecked > _CHECK_BYTES:
            self._unchecked = length
            if length + sum(map(len, self.stream_buffers.values())) > _MAX_UNREAD_BYTES:
                raise trio.TooSlowError  # the one exception after which Yamux closes the connection
        if self._is_here(length):
            return await self.secured_conn.read(length)  # which then needs no deadline
        return await super()._read_data_body(length)

    def _is_here(self, length: int) -> bool:
        """Whether so many bytes came in the same message of Noise as what was read last."""
        secured = self.secured_conn
        if not isinstance(secured, SecureSession):
            return False
        return secured.high_watermark - secured.low_watermark >= length


class _WindowLock(QuickLock):
    """The lock that Yamux takes to add what the other end grants, which tells of each release.

    Yamux has no event for an opened window. It polls every 10 ms, which is a window every 10 ms:
    15 MB/s measured here, where waking at once gave 95.
    """

    __slots__ = ("_released",)

    def __init__(self) -> None:
        super().__init__()
        self._released = trio.lowlevel.ParkingLot()

    async def __aexit__(self, *raised: object) -> None:
        await super().__aexit__(*raised)
        self._released.unpark_all()

    async def released(self) -> None:
        """Wait for the next release."""
        await self._released.park()


class MuxedBytes:
    """One Yamux stream as a `ByteStream`.

    Attributes:
        connection: whose it is.
        window_bytes: that the other end may send before this one reads.
    """

    def __init__(self, stream: YamuxStream, connection: "Connection") -> None:
        self._stream = stream
        self._window = _WindowLock()
        stream.window_lock = self._window  # type: ignore[assignment]  # used as a lock only
        self.connection = connection
        self.window_bytes = DEFAULT_WINDOW_SIZE
        self._owed = 0
        self._granted_at = trio.current_time()

    async def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes, or none once the other end has closed; loses none if cancelled.

        Raises:
            StreamCut: the other end reset the stream, or the connection is gone.
        """
        try:
            await self._grant_window()
            data = await self._stream.conn.read_stream(self._stream.stream_id, n)
        except MuxedStreamEOF as exc:
            if self._stream.reset_received:  # Yamux forgets the stream before its reader can look
                raise StreamCut("the stream was reset, or its connection is gone") from exc
            return b""
        except BaseLibp2pError as exc:
            raise StreamCut(f"the stream was reset ({exc})") from exc
        self._owed += len(data)
        self.connection.note_use()
        return data

    async def write(self, data: bytes) -> None:
        """Return once `data` is queued; a reader that is slow at the other end makes it wait.

        Raises:
            StreamCut: the stream or its connection is gone.
        """
        sent = 0
        while sent < len(data):
            await self.connection.room()
            window = await self._open_window()
            chunk = data[sent : sent + min(window, _CHUNK_BYTES)]
            if self._stream.closed or self._stream.send_closed:
                raise StreamCut("the stream is closed")
            self._stream.send_window -= len(chunk)
            try:
                await self._stream.conn._write_frame(self._header(len(chunk)) + chunk)  # noqa: SLF001
            except BaseLibp2pError as exc:
                raise StreamCut(f"the stream is closed ({exc})") from exc
            sent += len(chunk)
            self.connection.note_use()

    async def end(self) -> None:
        """End this end's direction and go on reading; what was written still arrives."""
        with suppress(BaseLibp2pError):
            await self._stream.close()

    async def close(self) -> None:
        """Close this end's direction and read no more; what was written still arrives."""
        await self.end()
        self.connection.linger(self)

    async def reset(self) -> None:
        """Give up both directions."""
        with suppress(BaseLibp2pError):
            await self._stream.reset()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it."""
        return self._stream.stream_id not in self._stream.conn.streams

    @property
    def is_lost(self) -> bool:
        """Whether it was reset, or its connection is gone."""
        return self._stream.reset_received or self.connection.is_closed

    @property
    def is_quiet(self) -> bool:
        """Whether both directions are open and nothing waits to be read."""
        ended = self._stream.recv_closed or self._stream.send_closed or self.is_over
        waiting = self._stream.conn.stream_buffers.get(self._stream.stream_id)
        return not (self.is_lost or ended or waiting)

    @property
    def is_outdated(self) -> bool:
        """Whether a better connection with the peer has come up since it was opened."""
        return self.connection.outdated

    def _header(self, size: int) -> bytes:
        return struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, self._stream.stream_id, size)

    async def _open_window(self) -> int:
        while self._stream.send_window <= 0:
            if self._stream.closed or self._stream.send_closed:
                raise StreamCut("the stream was closed while its reader kept it waiting")
            with trio.move_on_after(_POLL_S):
                await self._window.released()
        return self._stream.send_window

    async def _grant_window(self) -> None:
        if self._owed < self.window_bytes // 2:
            return
        now = trio.current_time()
        soon = now - self._granted_at < _GROW_WITHIN_RTTS * self.connection.rtt_s
        wanted = min(self.window_bytes, _MAX_WINDOW_BYTES - self.window_bytes) if soon else 0
        growth = self.connection.window_growth(self, wanted)
        granted, self._owed, self._granted_at = self._owed + growth, 0, now
        self.window_bytes += growth
        self._stream.recv_window += granted
        await self._stream.send_window_update(granted)


class Connection:
    """A running connection; `run` is its life.

    Attributes:
        peer: the authenticated other end.
        dialled: this end made it.
        relay: the peer through which it goes, None if it is direct.
        remote: the IP address and port it is connected from or to, if that is known.
        psk: the key of the private network's cipher under which the two met.
        outdated: there is a better connection with the same peer; this one is to be closed when
            what runs on it has ended.
    """

    def __init__(
        self, upgraded: Upgraded, serve: StreamServer, relay: PeerId | None = None
    ) -> None:
        self.peer = upgraded.peer
        self.psk = upgraded.psk
        self.relay = relay
        self.remote = upgraded.wire.get_remote_address()
        self.outdated = False
        self._grown: list[MuxedBytes] = []
        self._used_at = trio.current_time()
        self._wire = upgraded.wire
        self._wire.queue()
        secured = upgraded.secured
        self.dialled = secured.is_initiator
        self._muxer = _Muxer(secured, secured.get_remote_peer(), secured.is_initiator)
        self._serve = serve
        self._served = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._gone = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until either end closes it; its handlers end with it."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._guard, self._wire.pump)
                    nursery.start_soon(self._guard, self._muxer.start)
                    nursery.start_soon(self._accept_streams, nursery)
                    task_status.started()
                    await self._muxer.event_closed.wait()
                    nursery.cancel_scope.cancel()
        finally:
            await self._close()

    async def open_stream(self, protocol: str) -> MuxedBytes:
        """Return a stream on which the other end has agreed to speak `protocol`.

        Raises:
            PeerUnreachable: the connection is gone, does not answer, or has `MAX_STREAMS` open.
            ProtocolRefused: the other end does not speak it.
        """
        stream = await self._open_muxed()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_give_up, stream)
            try:
                with trio.fail_after(NEGOTIATE_TIMEOUT_S):
                    await multistream.offer(stream, protocol)
            except ProtocolRefused as exc:
                raise ProtocolRefused(f"{self.peer} does not speak {protocol}") from exc
            except trio.TooSlowError as exc:
                raise PeerUnreachable(f"{self.peer} did not answer on {protocol} in time") from exc
            except MalformedMessage as exc:
                raise PeerUnreachable(f"the connection to {self.peer} is lost ({exc})") from exc
            undo.pop_all()
        return stream

    async def open_one_way(self, protocol: str) -> MuxedBytes:
        """Return a stream to be written to only, without waiting for the other end's agreement.

        If it does not speak `protocol` it cuts the stream.

        Raises:
            PeerUnreachable: the connection is gone, or has `MAX_STREAMS` open.
        """
        stream = await self._open_muxed()
        try:
            await multistream.propose(stream, protocol)
        except BaseException:
            await _give_up(stream)
            raise
        return stream

    def cancel(self) -> None:
        """End the connection now."""
        self._scope.cancel()

    async def abort(self) -> None:
        """End the connection now, and return when its tasks have ended."""
        self.cancel()
        await self._gone.wait()

    async def room(self) -> None:
        """Wait until what is queued on the connection has mostly left."""
        await self._wire.room()

    def linger(self, stream: MuxedBytes) -> None:
        """See to it that a stream which ended here ends altogether."""
        if self._nursery is not None and not (stream.is_over or self.is_closed):
            self._nursery.start_soon(_drain, stream)

    @property
    def relayed(self) -> bool:
        """Whether it goes through a relay."""
        return self.relay is not None

    @property
    def remote_address(self) -> str | None:
        """The IP address it is connected from or to; None if it is relayed, or not known."""
        return self.remote[0] if self.remote else None

    @property
    def open_streams(self) -> int:
        """How many streams are open on it, whoever opened them."""
        return len(self._muxer.streams)

    @property
    def quiet_s(self) -> float:
        """For how many seconds no stream has carried anything."""
        return trio.current_time() - self._used_at

    @property
    def rtt_s(self) -> float:
        """There and back, as the muxer measures it every 30 s; 0 before the first time."""
        return self._muxer.rtt()

    def window_growth(self, stream: MuxedBytes, wanted: int) -> int:
        """Return by how much of `wanted` a stream's window may grow, and take note that it does."""
        if wanted <= 0:
            return 0
        self._grown = [one for one in self._grown if not one.is_over]
        used = sum(one.window_bytes - DEFAULT_WINDOW_SIZE for one in self._grown)
        growth = min(wanted, _MAX_GROWTH_BYTES - used)
        if growth > 0 and stream not in self._grown:
            self._grown.append(stream)
        return max(growth, 0)

    def note_use(self) -> None:
        """Take note that a stream carries something now."""
        self._used_at = trio.current_time()

    @property
    def is_closed(self) -> bool:
        """Whether it is of no more use."""
        return self._scope.cancel_called or self._muxer.event_shutting_down.is_set()

    async def _open_muxed(self) -> MuxedBytes:
        await self.room()
        if self.is_closed:
            raise PeerUnreachable(f"the connection to {self.peer} is lost")
        if self._muxer.stream_backlog_semaphore.value == 0:
            raise PeerUnreachable(f"{MAX_STREAMS} streams to {self.peer} are open already")
        try:
            with trio.CancelScope(shield=True):  # Yamux leaks the stream if it is cancelled here
                stream = await self._muxer.open_stream()
        except BaseLibp2pError as exc:
            raise PeerUnreachable(f"the connection to {self.peer} is lost ({exc})") from exc
        return MuxedBytes(stream, self)

    async def _accept_streams(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await self._muxer.accept_stream()
            except MuxedConnUnavailable:
                return
            nursery.start_soon(self._serve_stream, stream)

    async def _serve_stream(self, muxed: IMuxedStream) -> None:
        assert isinstance(muxed, YamuxStream)  # noqa: S101 — narrows libp2p's type
        stream = MuxedBytes(muxed, self)
        if self._served >= MAX_STREAMS:
            await _give_up(stream)
            return
        self._served += 1
        try:
            await self._serve(self, stream)
        except Exception:
            log.exception("stream.failed", peer=self.peer)
            await _give_up(stream)
        finally:
            self._served -= 1

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # how each layer says that the connection is lost
        except Exception:
            log.exception("connection.failed", peer=self.peer)
        self._scope.cancel()

    async def _close(self) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            # Wakes every reader; it closes the wire, which is bounded by _CLOSE_S.
            await self._muxer._cleanup_on_error()  # noqa: SLF001 — close() would skip the readers
            await self._wire.close()
        self._gone.set()


async def _drain(stream: MuxedBytes) -> None:
    # Yamux keeps a stream for as long as there is something unread on it.
    with trio.move_on_after(_LINGER_S), suppress(StreamCut):
        while await stream.read(DEFAULT_WINDOW_SIZE):
            pass
    if not stream.is_over:
        await stream.reset()


async def _give_up(stream: MuxedBytes) -> None:
    with trio.move_on_after(_CLOSE_S) as cleanup:
        cleanup.shield = True
        with suppress(MyxoError):
            await stream.reset()
