"""HTTP/2's frames as they come: where each ends, what it is, and how often cheap ones may come.

The library that keeps the protocol's state (h2) takes whole connections' bytes. Three things must
be seen before it, frame by frame: GOAWAY, after which h2 takes no more, although streams below its
number go on (RFC 9113 §6.8); frames that cost their receiver more than their sender, which are
counted (§10.5); and a header block that never ends.

What floods have in common is work without a request: pings and settings to be answered, streams
opened and reset at once (CVE-2023-44487), empty or tiny frames, a header block cut into thousands
of CONTINUATIONs (CVE-2024-27316 and others of that day). So frames that carry nothing have a budget
that frames which carry something fill again, and that fills slowly by itself.

Pure: bytes and the time in, frames out, or a `ConnectionFault`.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from h2.errors import ErrorCodes

from overlay.http.errors import HttpError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES = 9
MAX_FRAME_BYTES = 16_384
"""The protocol's smallest bound, which we never raise: a frame is one turn of a stream."""

MAX_STREAM = 2**31 - 1
_GOAWAY_BYTES = 8

MAX_CONTINUATIONS = 16
"""Frames of one header block. With `head.MAX_HEAD_BYTES` of fields four would do; HPACK does not
make a block longer than that by more than a few bytes a field."""

IDLE_BURST = 1000.0
IDLE_PER_S = 50.0
IDLE_EARNED = 10.0
"""Frames that carry nothing: at once, a second, and for each one that carries something. A gRPC
library sends a ping and two window updates for a read; some clients a window update for each DATA
frame that they get, which is earned by our sending it."""

RESET_BURST = 500.0
RESET_PER_S = 50.0
RESET_EARNED = 2.0
"""Streams that a client may give up: at once, a second, and for each one that was answered whole.
A client whose deadlines are too short gives up half of what it asks, and still passes."""

ACK = 0x1
END_STREAM = 0x1


class Kind(IntEnum):
    """Types of frames, RFC 9113 §6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ConnectionFault(HttpError):
    """The other end breaks the protocol, or makes more work than it has use of.

    Attributes:
        code: what the GOAWAY says that ends the connection.
    """

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: a `Kind`, or a number that is none.
        flags: as sent.
        stream: its number; 0 is the connection.
        data: all of it, its head included.
    """

    kind: int
    flags: int
    stream: int
    data: bytes

    @property
    def payload(self) -> bytes:
        """What follows the head."""
        return self.data[FRAME_HEAD_BYTES:]

    @property
    def carries(self) -> bool:
        """It brings a request or an answer further."""
        if self.kind == Kind.DATA:
            return len(self.data) > FRAME_HEAD_BYTES or bool(self.flags & END_STREAM)
        return self.kind == Kind.HEADERS


class Splitter:
    """Cuts what arrives into frames; keeps less than one.

    Args:
        preface: what has to come before the first frame.
    """

    __slots__ = ("_began", "_buffer", "_continuations", "_preface")

    def __init__(self, preface: bytes = b"") -> None:
        self._buffer = b""
        self._preface = preface
        self._began = False
        self._continuations = 0

    @property
    def began(self) -> bool:
        """The first frame has come."""
        return self._began

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes.

        Raises:
            ConnectionFault: this is no HTTP/2, or a frame or a header block is too long.
        """
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if self._preface:
            position = len(self._preface)
            if buffer[:position] != self._preface[: len(buffer)]:
                raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "this is no HTTP/2 preface")
            if len(buffer) < position:
                self._buffer = buffer
                return []
            self._preface = b""
        frames: list[Frame] = []
        while len(buffer) - position >= FRAME_HEAD_BYTES:
            length = int.from_bytes(buffer[position : position + 3], "big")
            end = position + FRAME_HEAD_BYTES + length
            self._check(buffer[position + 3], buffer[position + 4], length)
            if len(buffer) < end:
                break
            number = int.from_bytes(buffer[position + 5 : position + 9], "big") & MAX_STREAM
            frame = Frame(buffer[position + 3], buffer[position + 4], number, buffer[position:end])
            self._count(frame)
            frames.append(frame)
            position = end
        self._buffer = buffer[position:]
        return frames

    def _check(self, kind: int, flags: int, length: int) -> None:
        if length > MAX_FRAME_BYTES:
            text = f"a frame has {length} bytes, more than {MAX_FRAME_BYTES}"
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, text)
        if not self._began and (kind != Kind.SETTINGS or flags & ACK):
            text = "the first frame is not SETTINGS"
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)

    def _count(self, frame: Frame) -> None:
        self._began = True
        self._continuations = self._continuations + 1 if frame.kind == Kind.CONTINUATION else 0
        if self._continuations > MAX_CONTINUATIONS:
            text = f"a header block has more than {MAX_CONTINUATIONS} CONTINUATION frames"
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, text)


class Budget:
    """How many of something may still come: a bucket that time and good work fill.

    Args:
        burst: how many at once, in all.
        per_s: how many more a second.
        now: in seconds.
    """

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at = now

    def earn(self, amount: float) -> None:
        """Take note of good work."""
        self._left = min(self._burst, self._left + amount)

    def spend(self, now: float) -> bool:
        """Take one out; False if there is none."""
        self._left = min(self._burst, self._left + self._per_s * (now - self._at))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def goaway(last_stream: int, code: ErrorCodes, reason: str = "") -> bytes:
    """Return a GOAWAY frame, which h2 would take for the end of everything."""
    payload = struct.pack(">II", last_stream, code) + reason.encode("ascii", "backslashreplace")
    head = len(payload).to_bytes(3, "big") + bytes((Kind.GOAWAY, 0)) + bytes(4)
    return head + payload


def last_stream_of(goaway_frame: Frame) -> int:
    """Return the highest stream that the sender of a GOAWAY looks at.

    Raises:
        ConnectionFault: it is too short.
    """
    if len(goaway_frame.payload) < _GOAWAY_BYTES:
        raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, "a GOAWAY frame is too short")
    return int.from_bytes(goaway_frame.payload[:4], "big") & MAX_STREAM
