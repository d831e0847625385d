"""Messages over a byte stream, so that a cut is never mistaken for an end.

Yamux reports a peer that was killed exactly as it reports a clean close, so the end is said in
band: each message goes as an unsigned varint of its length and its bytes, and a length of zero is
the end mark. A stream that stops before its end mark was cut.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from overlay.errors import MalformedMessage, StreamCut
from overlay.names import PeerId
from overlay.quick_lock import QuickLock

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""A page of some thousands of records; whatever is larger is sent in parts."""

_MAX_VARINT_BYTES = 4
"""4 × 7 bits cover `MAX_MESSAGE_BYTES`."""

_CONTINUED = 0x80
"""Set in each byte of a varint but its last."""

_READ_BYTES = 64 * 1024
_END_MARK = b"\0"

_CLEANUP_S = 1.0
"""For telling the other end that a stream is over; if that takes longer it will find out itself."""


class ByteStream(Protocol):
    """What a framed stream runs on. Each method raises `StreamCut` if the stream is lost."""

    async def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes, or none once the other end has closed; loses none if cancelled."""

    async def write(self, data: bytes) -> None:
        """Return once `data` is on its way; a slow reader at the other end only makes it wait."""

    async def close(self) -> None:
        """Close in good order: what was written still arrives."""

    async def reset(self) -> None:
        """Give up both directions at once."""


class FramedStream:
    """Whole messages to and from one peer.

    `send` may be called by several tasks; they take turns. `receive` is for one task at a time and
    may be cancelled without losing anything. Leave it by `aclose` or as an async context manager.

    Attributes:
        peer: the authenticated other end.
    """

    def __init__(
        self, stream: ByteStream, peer: PeerId, outdated: Callable[[], bool] = lambda: False
    ) -> None:
        self.peer = peer
        self._outdated = outdated
        self._stream = stream
        self._received = bytearray()
        self._ended = False
        self._finished = False
        self._cut = False
        self._closed = False
        self._sending = QuickLock()

    async def send(self, message: bytes) -> None:
        """Send one message of 1 to `MAX_MESSAGE_BYTES` bytes.

        If it is cancelled while part of the message is on its way, the stream is cut.

        Raises:
            StreamCut: the stream is lost, finished or closed.
        """
        if not 0 < len(message) <= MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(message)} bytes cannot be sent")
        async with self._sending:
            await self._write(encode_varint(len(message)) + message)

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the other end has said that it is finished.

        Raises:
            StreamCut: the stream stopped before its end mark.
            MalformedMessage: what came is longer than `MAX_MESSAGE_BYTES`; the stream is cut.
        """
        while not self._ended:
            message = self._take()
            if message is not None:
                return message
            if not self._ended:
                await self._fill()
        return None

    async def finish(self) -> None:
        """Say that no further message follows; messages can still be received.

        Raises:
            StreamCut: the stream is lost.
        """
        async with self._sending:
            if not self._finished:
                await self._write(_END_MARK)
                self._finished = True

    async def aclose(self) -> None:
        """Let go of the stream: in good order after `finish`, else the other end sees it cut."""
        if self._closed:
            return
        self._closed = True
        with trio.move_on_after(_CLEANUP_S) as cleanup:
            cleanup.shield = True
            try:
                await (self._stream.close() if self._orderly else self._stream.reset())
            except StreamCut:
                return

    @property
    def reusable(self) -> bool:
        """Whether messages can still be sent and received."""
        return not (self._ended or self._finished or self._cut or self._closed)

    @property
    def unread(self) -> bool:
        """Whether part of a message, or the end, has come and was not received yet."""
        return bool(self._received) or self._ended

    @property
    def outdated(self) -> bool:
        """Whether a stream that is opened now would take a better way to the peer."""
        return self._outdated()

    @property
    def _orderly(self) -> bool:
        return self._finished and not self._cut

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _write(self, data: bytes) -> None:
        if self._cut or self._closed or self._finished:
            raise StreamCut("the stream is over: nothing more can be sent on it")
        try:
            await self._stream.write(data)
        except BaseException:
            self._cut = True  # also where it is cancelled half-way; not before, as others receive
            raise

    async def _fill(self) -> None:
        if self._cut or self._closed:
            raise StreamCut("the stream is over: nothing more can be received on it")
        data = await self._stream.read(_READ_BYTES)
        if not data:
            self._cut = True
            raise StreamCut(f"the stream from {self.peer} stopped before its end mark")
        self._received += data

    def _take(self) -> bytes | None:
        header = self._header()
        if header is None:
            return None
        size, length = header
        if length == 0:
            self._ended = True
            return None
        if len(self._received) < size + length:
            return None
        message = bytes(self._received[size : size + length])
        del self._received[: size + length]
        return message

    def _header(self) -> tuple[int, int] | None:
        length = 0
        for at, byte in enumerate(self._received[:_MAX_VARINT_BYTES]):
            length |= (byte & 0x7F) << (7 * at)
            if byte < _CONTINUED:
                if length > MAX_MESSAGE_BYTES:
                    self._refuse()
                return at + 1, length
        if len(self._received) >= _MAX_VARINT_BYTES:
            self._refuse()
        return None

    def _refuse(self) -> None:
        self._cut = True
        raise MalformedMessage(
            f"{self.peer} announced a message over the {MAX_MESSAGE_BYTES} bytes that are allowed"
        )


def encode_varint(number: int) -> bytes:
    """Return `number` as an unsigned LEB128 varint."""
    encoded = bytearray()
    while number >= _CONTINUED:
        encoded.append(number & 0x7F | _CONTINUED)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
