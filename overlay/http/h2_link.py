"""One HTTP/2 connection, whichever end of it this is: frames in and out, streams for their users.

The library h2 keeps the protocol's state; this reads, writes and waits. Two tasks run a `Link`: one
reads and hands what came to the streams, one writes. Everybody else changes h2's state without
waiting and wakes the writer, so a user that is cancelled never leaves half a frame behind.

Nobody is kept waiting by another stream: each sends one frame at a time and only while little is
waiting to be written, and what is not taken by a stream's reader holds back that stream alone
(`h2_flow`). A client that sends but does not read is read no more once `MAX_PENDING` bytes wait for
it, so that the answers to its pings are not kept for it without an end.
"""

from collections.abc import Callable
from contextlib import suppress
from math import inf

import trio
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from overlay.http.h2_channel import Channel, Head, Loss
from overlay.http.h2_fields import MalformedHead, trailers
from overlay.http.h2_flow import (
    CONNECTION_WINDOW,
    INITIAL_WINDOW,
    MAX_STREAMS,
    STREAM_WINDOW,
    InboundWindow,
)
from overlay.http.h2_frames import (
    IDLE_BURST,
    IDLE_EARNED,
    IDLE_PER_S,
    PREFACE,
    RESET_BURST,
    RESET_EARNED,
    RESET_PER_S,
    Budget,
    ConnectionFault,
    Frame,
    Kind,
    Splitter,
    goaway,
    last_stream_of,
)
from overlay.http.head import MAX_HEAD_BYTES
from overlay.http.lingering import LINGER_S, linger
from overlay.http.transport import SendFailed, Transport

MAX_PENDING = 256 * 1024
"""Waiting to be written: above it nothing is read, as reading makes answers."""

TABLE_BYTES = 4096
"""Of the compression's memory of what was sent, which the other end may wish larger."""

MAX_HEADS = 64
"""Of one stream, that wait for their reader: interim answers that nobody reads."""

FIRST_FRAME_S = 10.0
"""Until the other end's first frame, where nothing is under way."""

GOODBYE_S = 2.0
"""For the last frames, where the other end does not read."""


class _Connection(H2Connection):
    """h2's, which remembers fewer of the streams that are over: an entry has some 100 bytes."""

    MAX_CLOSED_STREAMS = 1024


class Link:
    """One connection.

    `run` it in a task; when that returns, the connection is closed and every channel is lost.

    Args:
        transport: owned from now on.
        client: this end opens the streams.
        send_timeout_s: seconds for which the other end may take nothing.
        idle_timeout_s: seconds without a stream after which the connection ends.
        on_request: gets each stream that the other end opens; not for clients.

    Attributes:
        channels: by number, as long as somebody uses them.
        users: all of them, also those of ours that have no number yet.
        leaving: the other end said that it takes no more streams.
        closed: the connection is over.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        client: bool,
        send_timeout_s: float = inf,
        idle_timeout_s: float = inf,
        on_request: Callable[[Channel, Head], None] | None = None,
    ) -> None:
        self._transport = transport
        self._client = client
        self._idle_timeout_s = idle_timeout_s
        self._on_request = on_request
        self._splitter = Splitter(b"" if client else PREFACE)
        self._window = InboundWindow(CONNECTION_WINDOW)
        now = trio.current_time()
        self._idle_frames = Budget(IDLE_BURST, IDLE_PER_S, now)
        self._resets = Budget(RESET_BURST, RESET_PER_S, now)
        self._used_at = now
        self._out = bytearray()
        self._in_flight = 0
        self._reading = trio.CancelScope()
        self._ended = False
        self._linger_s = LINGER_S
        self._work = trio.lowlevel.ParkingLot()
        self._pongs = trio.lowlevel.ParkingLot()
        self.h2 = _open_state(client=client)
        self.room = trio.lowlevel.ParkingLot()
        self.send_timeout_s = send_timeout_s
        self.channels: dict[int, Channel] = {}
        self.users: set[Channel] = set()
        self.leaving = False
        self.closed = False
        self.flush()

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return len(self._out) + self._in_flight

    def open_channel(self) -> Channel:
        """Return a stream of our own.

        Raises:
            SendFailed: the connection takes none.
        """
        if self.closed or self.leaving:
            raise SendFailed(0)
        channel = Channel(self, 0)
        self.users.add(channel)
        return channel

    async def run(self, received: bytes = b"") -> None:
        """Read and write until the connection's end, and close it.

        Args:
            received: what was read of it already.

        Raises:
            ConnectionFault: the other end broke the protocol; it was told.
        """
        self._transport.probe()
        fault = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                with self._reading:
                    fault = await self._read_until_fault(received)
                self._lose_all(fault or "the connection ended")
                await self._say_goodbye(fault)
                nursery.cancel_scope.cancel()
        finally:
            self._lose_all("the connection is closed")
            await self._transport.abort()
        if fault is not None:
            raise fault

    def end(self, linger_s: float = LINGER_S) -> None:
        """Let the connection end once what waits is written; no stream may be open.

        Args:
            linger_s: how long the other end may take to read the last of it.
        """
        self._linger_s = linger_s
        self._reading.cancel()

    def refuse_more(self, last: int) -> None:
        """Tell the other end that streams above `last` are not looked at."""
        self._out += goaway(last, ErrorCodes.NO_ERROR)
        self._work.unpark()

    async def round_trip(self) -> None:
        """Return when the other end has read everything that was sent until now."""
        with suppress(ProtocolError):
            self.h2.ping(bytes(8))
        self.flush()
        await self._pongs.park()

    def refuse(self, channel: Channel, code: ErrorCodes, reason: str) -> None:
        """End a stream that the other end has opened in vain.

        Raises:
            ConnectionFault: there were too many of these.
        """
        channel.reset(code, reason)
        self.forget(channel)
        self._spend(self._resets, trio.current_time(), "too many streams came in vain")

    def answered(self) -> None:
        """Take note that a stream of the other end was answered whole."""
        self._resets.earn(RESET_EARNED)

    def flush(self) -> None:
        """Have what h2 wants to send written."""
        self._out += self.h2.data_to_send()
        self._work.unpark()

    def sent_data(self) -> None:
        """Take note of a frame with a part of a body, and flush."""
        self._idle_frames.earn(IDLE_EARNED)  # it may be answered by window updates
        self.flush()

    def open_window(self, size: int, stream: int | None = None) -> None:
        """Let more be sent on a stream, or on the connection."""
        with suppress(ProtocolError):
            self.h2.increment_flow_control_window(size, stream)
        self.flush()

    def reset(self, stream: int, code: ErrorCodes) -> None:
        """Tell the other end that a stream is over."""
        with suppress(ProtocolError):
            self.h2.reset_stream(stream, code)
        self.flush()

    def number(self, channel: Channel) -> None:
        """Give a channel of our own the next stream, which has to begin at once."""
        try:
            channel.id = self.h2.get_next_available_stream_id()
        except ProtocolError:
            self.leaving = True  # a thousand million streams are enough for one connection
            raise
        self.channels[channel.id] = channel

    def forget(self, channel: Channel) -> None:
        """Take note that nobody uses a channel any more."""
        self.channels.pop(channel.id, None)
        self.users.discard(channel)
        self._used_at = trio.current_time()

    async def _write(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                if not self._out:
                    await self._work.park()
                    continue
                data = bytes(self._out)
                self._out.clear()
                self._in_flight = len(data)
                await self._transport.send(data)
                self._in_flight = 0
                self.room.unpark_all()
        except SendFailed:
            pass
        scope.cancel()

    async def _read_until_fault(self, received: bytes) -> ConnectionFault | None:
        try:
            await self._read(received)
        except ConnectionFault as exc:
            return exc
        except trio.BrokenResourceError:
            return None
        return None

    async def _read(self, received: bytes) -> None:
        data: bytes | None = received
        while True:
            if data:
                self._take_in(data)
            if self._is_idle():
                return
            if self.pending > MAX_PENDING and not await self._wrote():
                return
            data = await self._transport.receive(self._patience_s)
            if data is not None and not data:
                self._ended = True
                return

    async def _wrote(self) -> bool:
        """Wait until less waits to be written; False if the other end takes nothing."""
        with trio.move_on_after(self.send_timeout_s):
            while self.pending > MAX_PENDING:
                await self.room.park()
            return True
        return False

    @property
    def _patience_s(self) -> float:
        """How long nothing may come while nothing is under way."""
        most = inf if self._splitter.began else FIRST_FRAME_S
        return min(self._idle_timeout_s, most)

    def _is_idle(self) -> bool:
        return not self.users and trio.current_time() >= self._used_at + self._patience_s

    def _take_in(self, data: bytes) -> None:
        batch: list[bytes] = []
        now = trio.current_time()
        for frame in self._splitter.feed(data):
            self._account(frame, now)
            if frame.kind == Kind.GOAWAY:
                self._process(batch)
                batch = []
                self._goes_away(last_stream_of(frame))
            else:
                batch.append(frame.data)
        self._process(batch)

    def _account(self, frame: Frame, now: float) -> None:
        """Count what costs more than it brings.

        Raises:
            ConnectionFault: there was too much of it.
        """
        if frame.carries:
            self._idle_frames.earn(IDLE_EARNED)
        elif frame.kind != Kind.CONTINUATION:
            self._spend(self._idle_frames, now, "too many frames came that carry nothing")

    def _spend(self, budget: Budget, now: float, reason: str) -> None:
        if not budget.spend(now):
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, reason)

    def _goes_away(self, last: int) -> None:
        self.leaving = True
        for channel in list(self.users) if self._client else ():
            if channel.id > last or not channel.id:
                channel.lose("the server is leaving", Loss.LEFT)

    def _process(self, batch: list[bytes]) -> None:
        if not batch:
            return
        try:
            events = self.h2.receive_data(b"".join(batch))
        except ProtocolError as exc:
            self.flush()  # with the GOAWAY that says what was wrong
            raise ConnectionFault(exc.error_code, str(exc)) from exc
        for event in events:
            self._happened(event)
        self.flush()

    def _happened(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._data_came(event)
            case RequestReceived() | ResponseReceived() | InformationalResponseReceived():
                self._head_came(event)
            case TrailersReceived():
                self._trailers_came(event)
            case StreamEnded() | StreamReset():
                self._end_came(event)
            case WindowUpdated():
                self.room.unpark_all()
            case RemoteSettingsChanged():
                encoder = self.h2.encoder
                encoder.header_table_size = min(encoder.header_table_size, TABLE_BYTES)
                self.room.unpark_all()
            case PingAckReceived():
                self._pongs.unpark_all()
            case _:
                pass

    def _end_came(self, event: StreamEnded | StreamReset) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is None:
            return
        if isinstance(event, StreamEnded):
            channel.end()
        else:
            refused = event.error_code == ErrorCodes.REFUSED_STREAM
            text = f"the other end reset the stream (error {event.error_code!s})"
            channel.lose(text, Loss.REFUSED if refused else Loss.RESET)
            if not self._client:
                reason = "more streams were reset than answered"
                self._spend(self._resets, trio.current_time(), reason)

    def _head_came(
        self, event: RequestReceived | ResponseReceived | InformationalResponseReceived
    ) -> None:
        ended = not isinstance(event, InformationalResponseReceived) and event.stream_ended
        head = Head(event.headers, bool(ended))
        if isinstance(event, RequestReceived) and self._on_request is not None:
            channel = self.channels[event.stream_id] = Channel(self, event.stream_id)
            self.users.add(channel)
            self._on_request(channel, head)
        elif (known := self.channels.get(event.stream_id)) is not None:
            known.heads.append(head)
            known.tell()
            if len(known.heads) > MAX_HEADS:
                known.reset(ErrorCodes.ENHANCE_YOUR_CALM, "more heads came than anybody read")

    def _trailers_came(self, event: TrailersReceived) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is None:
            return
        try:
            channel.trailers = trailers(event.headers)
        except MalformedHead as exc:
            channel.reset(ErrorCodes.PROTOCOL_ERROR, str(exc))

    def _data_came(self, event: DataReceived) -> None:
        size = event.flow_controlled_length
        self._window.arrived(size)
        opened = self._window.taken(size)
        if opened:
            self.open_window(opened)
        channel = self.channels.get(event.stream_id)
        if channel is not None and channel.lost is None:
            channel.came(event.data, size)

    def _lose_all(self, why: ConnectionFault | str) -> None:
        self.closed = True
        loss = Loss.MALFORMED if isinstance(why, ConnectionFault) else Loss.CONNECTION
        for channel in list(self.users):
            channel.lose(str(why), loss)
        self.room.unpark_all()

    async def _say_goodbye(self, fault: ConnectionFault | None) -> None:
        if self._ended:
            return
        with trio.move_on_after(GOODBYE_S):
            if self.h2.state_machine.state is not ConnectionState.CLOSED:
                code = ErrorCodes.NO_ERROR if fault is None else fault.code
                self._out += goaway(self.h2.highest_inbound_stream_id, code, str(fault or ""))
            self._work.unpark()
            while self.pending:
                await self.room.park()
            if not self._client:
                await linger(self._transport, self._linger_s)


def _open_state(*, client: bool) -> H2Connection:
    """Return h2's state of a connection, with what we have to say first."""
    state = _Connection(
        H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_outbound_headers=False,  # `h2_fields` writes them
            validate_inbound_headers=False,  # `h2_fields` checks them, for one stream at a time
            normalize_inbound_headers=False,
        )
    )
    first = {
        SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
    }
    if client:
        first[SettingCodes.ENABLE_PUSH] = 0
    state.local_settings = Settings(client=client, initial_values=first)
    state.initiate_connection()
    if not client:
        # Said apart, so that it binds once it was heard: who is too fast loses streams, not all.
        state.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS})
        state.receive_data(PREFACE)
    state.increment_flow_control_window(CONNECTION_WINDOW - INITIAL_WINDOW)
    return state
