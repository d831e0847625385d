"""One stream of an HTTP/2 connection, whichever end of it this is, as its user sees it.

A stream waits for its own windows and for room on the connection, never for another stream. Nothing
here waits while the protocol's state is half changed: a user that is cancelled leaves whole frames.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from math import inf
from typing import NamedTuple, Protocol, TypeVar

import trio
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from overlay.http.h2_flow import STREAM_WINDOW, InboundWindow
from overlay.http.h2_frames import MAX_FRAME_BYTES
from overlay.http.head import Field
from overlay.http.transport import LEAST_RATE, SendFailed

BUSY_BYTES = 64 * 1024
"""Waiting to be written on the connection: above it streams wait that have more to send."""

T = TypeVar("T")


class Head(NamedTuple):
    """A header block that came on a stream: fields, and whether the stream ended with them."""

    fields: Sequence[Field]
    ended: bool


class Loss(Enum):
    """How a stream was lost before both ends had sent everything."""

    CONNECTION = "the connection is lost"
    MALFORMED = "what came on the connection is no HTTP/2"
    LEFT = "the other end left without looking at the request"
    REFUSED = "the other end refused to look at the request"
    RESET = "one end reset the stream"


class Carrier(Protocol):
    """What a channel needs of its link.

    Attributes:
        h2: the protocol's state.
        room: where those wait who have something to send.
        send_timeout_s: seconds for which the other end may take nothing.
    """

    h2: H2Connection
    room: trio.lowlevel.ParkingLot
    send_timeout_s: float

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        ...

    def flush(self) -> None:
        """Have what h2 wants to send written."""
        ...

    def sent_data(self) -> None:
        """Take note of a frame with a part of a body, and flush."""
        ...

    def open_window(self, size: int, stream: int) -> None:
        """Let more be sent on a stream."""
        ...

    def reset(self, stream: int, code: ErrorCodes) -> None:
        """Tell the other end that a stream is over."""
        ...

    def number(self, channel: "Channel") -> None:
        """Give a channel of our own the next stream, which has to begin at once."""
        ...

    def forget(self, channel: "Channel") -> None:
        """Take note that nobody uses a channel any more."""
        ...


class Channel:
    """One stream of a link, as its user sees it; the link fills it.

    Attributes:
        id: the stream's number; 0 until a stream of our own has sent its head.
        heads: of answers, in order, interim ones too.
        trailers: that came after the body.
        lost: why nothing more will come or go; None while that is not so.
        loss: how it was lost; of no meaning while it is not.
        on_lost: called when it is lost.
    """

    __slots__ = (
        "_data",
        "_ended",
        "_link",
        "_news",
        "_sent_any",
        "_sent_end",
        "_window",
        "heads",
        "id",
        "loss",
        "lost",
        "on_lost",
        "trailers",
    )

    def __init__(self, link: Carrier, number: int) -> None:
        self._link = link
        self._data = bytearray()  # a list would keep 60 bytes for each frame of one byte
        self._window = InboundWindow(STREAM_WINDOW)
        self._ended = False
        self._sent_any = False
        self._sent_end = False
        self._news = trio.lowlevel.ParkingLot()
        self.id = number
        self.heads: deque[Head] = deque()
        self.trailers: Sequence[Field] = ()
        self.lost: str | None = None
        self.loss = Loss.RESET
        self.on_lost: Callable[[], None] | None = None

    @property
    def done(self) -> bool:
        """Everything that the other end sends has been taken."""
        return self._ended and not self._data

    @property
    def complete(self) -> bool:
        """Both ends have sent everything."""
        return self._ended and self._sent_end

    @property
    def has_something(self) -> bool:
        """There is something to take, or everything was."""
        return bool(self._data or self.heads or self._ended)

    def take(self) -> bytes:
        """Return what there is of the body, and let as much again be sent."""
        data = bytes(self._data)
        self._data.clear()
        if data:
            self._credit(len(data))
        return data

    async def wait(self, within_s: float = inf) -> bool:
        """Wait until there is something to take, an end, or a loss; False if it takes too long."""
        if self._has_news():
            await trio.lowlevel.cancel_shielded_checkpoint()
            return True
        if within_s == inf:
            await self._until_news()
            return True
        with trio.move_on_after(within_s):
            await self._until_news()
            return True
        return False

    async def until_lost(self) -> None:
        """Return once nothing more will come or go."""
        while self.lost is None:
            await self._news.park()

    async def send_head(self, fields: Sequence[Field], *, end: bool = False) -> None:
        """Send a header block.

        Raises:
            SendFailed: the stream is lost.
        """
        await self._sendable(0)
        self._call(lambda: self._begin(fields, end=end))
        self._sent_any, self._sent_end = True, end
        self._link.flush()

    async def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send more of the body as fast as the other end takes it.

        Raises:
            SendFailed: the stream is lost, or the other end has taken nothing for too long.
        """
        rest = memoryview(data)
        latest = trio.current_time() + self._link.send_timeout_s + len(data) / LEAST_RATE
        while rest or end:
            size = await self._sendable(len(rest), latest)
            piece, rest = bytes(rest[:size]), rest[size:]
            last = end and not rest
            self._call(lambda: self._link.h2.send_data(self.id, piece, last))  # noqa: B023
            self._link.sent_data()
            if last:
                self._sent_end = True
                return

    def reset(self, code: ErrorCodes, reason: str) -> None:
        """End the stream at once."""
        if self.lost is None:
            if self.id:
                self._link.reset(self.id, code)
            self.lose(reason)

    def close(self, unwanted: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Give the stream up, telling the other end if there could be more of it."""
        self.on_lost = None
        if not self.complete:
            self.reset(unwanted, "it was given up")
        self._link.forget(self)

    def came(self, data: bytes, size: int) -> None:
        """Keep `data`, which took `size` bytes of the window; for the link."""
        self._window.arrived(size)
        self._data += data
        if size > len(data):
            self._credit(size - len(data))
        self.tell()

    def end(self) -> None:
        """Take note that nothing more comes; for the link."""
        self._ended = True
        self.tell()

    def lose(self, reason: str, loss: Loss = Loss.RESET) -> None:
        """Take note that the stream is lost; for the link."""
        if self.lost is None:
            self.lost, self.loss = reason, loss
            self.tell()
            self._link.room.unpark_all()
            if self.on_lost is not None:
                self.on_lost()

    def tell(self) -> None:
        """Wake who waits for something to come."""
        self._news.unpark_all()

    def _begin(self, fields: Sequence[Field], *, end: bool) -> None:
        if not self.id:
            self._link.number(self)
        self._link.h2.send_headers(self.id, fields, end_stream=end)

    def _has_news(self) -> bool:
        return self.has_something or self.lost is not None

    async def _until_news(self) -> None:
        while not self._has_news():
            await self._news.park()

    def _credit(self, count: int) -> None:
        opened = self._window.taken(count)
        if opened and not self._ended and self.lost is None:
            self._link.open_window(opened, self.id)

    async def _sendable(self, wanted: int, latest: float = inf) -> int:
        """Wait until a frame may be sent; return how much of `wanted` fits in it.

        What others send on the connection wakes who waits here, and gives nobody more time.
        """
        link = self._link
        until = inf
        while True:
            if self.lost is not None:
                raise SendFailed(None if self._sent_any else 0)
            if link.pending < BUSY_BYTES:
                if not wanted:
                    return 0
                window = self._call(lambda: link.h2.local_flow_control_window(self.id))
                if window > 0:
                    return min(wanted, window, MAX_FRAME_BYTES)
            if until == inf:
                until = min(latest, trio.current_time() + link.send_timeout_s)
            with trio.move_on_at(until) as scope:
                await link.room.park()
            if scope.cancelled_caught:
                self.reset(ErrorCodes.CANCEL, "the other end took nothing for too long")

    def _call(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except ProtocolError as exc:
            self.lose(str(exc), Loss.CONNECTION)
            raise SendFailed(None if self._sent_any else 0) from exc


class ChannelBody:
    """Where the body of a stream ends: a `BodyDecoder` that has nothing to decode."""

    __slots__ = ("_channel", "leftover")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.leftover = b""

    @property
    def done(self) -> bool:
        """Everything has been taken."""
        return self._channel.done

    @property
    def trailers(self) -> Sequence[Field]:
        """Fields that came after it."""
        return self._channel.trailers

    def feed(self, data: bytes) -> bytes:
        """Return `data`, all of which is the body."""
        return data

    def end(self) -> None:
        """Do nothing: a stream says itself that it was cut."""
