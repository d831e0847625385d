"""Bodies of HTTP/1 messages: where they end, decided from the bytes alone (RFC 9112 §6–7).

A decoder takes what the network gave and returns what of it is the body. It keeps no body bytes, so
memory is bounded by the size of one read. What follows the body is left over for the next message.
"""

import re
from collections.abc import Sequence
from typing import Protocol, assert_never

from overlay.http.errors import MalformedBody
from overlay.http.head import BodyKind, Field, Framing, parse_trailers

MAX_SIZE_LINE_BYTES = 512
"""A chunk's size with its extensions, which nobody reads; more of them is an attack on the CPU."""
MAX_OVERHEAD_BYTES = 16 * 1024
"""What size lines may cost beyond `_FREE_OVERHEAD` for each chunk and twice its bytes, as in Go."""
_FREE_OVERHEAD = 16
MAX_TRAILER_BYTES = 16 * 1024
LAST_CHUNK = b"0\r\n\r\n"

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:[ \t]*+;[^\x00-\x08\x0a-\x1f\x7f]*+)?\r\n")
_SIZE_LINE_PREFIX = re.compile(
    rb"[0-9A-Fa-f]{1,15}+(?:[ \t]*+(?:;[^\x00-\x08\x0a-\x1f\x7f]*+)?)?\r?"
)


class BodyDecoder(Protocol):
    """Finds the end of one body.

    Attributes:
        leftover: what was fed after its end.
    """

    leftover: bytes

    @property
    def done(self) -> bool:
        """The body is complete."""
        ...

    @property
    def trailers(self) -> Sequence[Field]:
        """Fields that came after it."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body in `data`; call only while not `done`.

        Raises:
            MalformedBody: the framing is wrong.
        """
        ...

    def end(self) -> None:
        """Take note that no more bytes will come.

        Raises:
            MalformedBody: the body is not complete.
        """
        ...


def body_decoder(framing: Framing) -> BodyDecoder:
    """Return a decoder for a body framed so."""
    match framing.kind:
        case BodyKind.NONE | BodyKind.LENGTH:
            return LengthDecoder(framing.length)
        case BodyKind.CHUNKED:
            return ChunkedDecoder()
        case BodyKind.UNTIL_CLOSE:
            return UntilCloseDecoder()
        case _:
            assert_never(framing.kind)


class LengthDecoder:
    """Counts a body of known length, in bytes."""

    __slots__ = ("_remaining", "done", "leftover", "trailers")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.done = length == 0
        self.leftover = b""
        self.trailers: Sequence[Field] = ()

    def feed(self, data: bytes) -> bytes:
        """See `BodyDecoder`."""
        size = len(data)
        if size < self._remaining:
            self._remaining -= size
            return data
        self.done = True
        if size > self._remaining:
            self.leftover = data[self._remaining :]
            data = data[: self._remaining]
        self._remaining = 0
        return data

    def end(self) -> None:
        """See `BodyDecoder`."""
        if not self.done:
            raise MalformedBody(f"the body ended {self._remaining} bytes too early")


class UntilCloseDecoder:
    """Takes everything until the connection's end."""

    __slots__ = ("done", "leftover", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.leftover = b""
        self.trailers: Sequence[Field] = ()

    def feed(self, data: bytes) -> bytes:
        """See `BodyDecoder`."""
        return data

    def end(self) -> None:
        """See `BodyDecoder`."""
        self.done = True


class ChunkedDecoder:
    """Takes the chunked transfer coding apart."""

    __slots__ = (
        "_open",
        "_overhead",
        "_pending",
        "_remaining",
        "_trailing",
        "done",
        "leftover",
        "trailers",
    )

    def __init__(self) -> None:
        self._pending = b""  # an incomplete size line, chunk end or trailer section
        self._remaining = 0  # bytes of the current chunk still to come
        self._overhead = 0
        self._open = False  # the CRLF after the current chunk is still to come
        self._trailing = False
        self.done = False
        self.leftover = b""
        self.trailers: Sequence[Field] = ()

    def feed(self, data: bytes) -> bytes:
        """See `BodyDecoder`."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        parts: list[bytes] = []
        position = 0
        while position < len(data) and not self._trailing:
            moved = self._chunk(data, position, parts)
            if moved == position:
                break
            position = moved
        if self._trailing:
            self._take_trailers(data[position:])
        else:
            self._pending = data[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def end(self) -> None:
        """See `BodyDecoder`."""
        if not self.done:
            raise MalformedBody("the chunked body ended before its last chunk")

    def _chunk(self, data: bytes, position: int, parts: list[bytes]) -> int:
        """Take one step from `position` and return the new one; the same if more is needed."""
        if self._remaining:
            part = data[position : position + self._remaining]
            parts.append(part)
            self._remaining -= len(part)
            return position + len(part)
        if self._open:
            return self._chunk_end(data, position)
        line = _SIZE_LINE.match(data, position)
        if line is None:
            _check_size_line_so_far(data[position : position + MAX_SIZE_LINE_BYTES + 1])
            return position
        start = line.end()
        if start - position > MAX_SIZE_LINE_BYTES:
            raise MalformedBody("a chunk's size line is too long")
        size = int(line.group(1), 16)
        if size == 0:
            self._trailing = True
            return start
        self._overhead = max(0, self._overhead + start - position - _FREE_OVERHEAD - 2 * size)
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise MalformedBody("the body is mostly chunk extensions")
        self._open = True
        if len(data) < start + size + 2:
            self._remaining = size
            return start
        parts.append(data[start : start + size])
        return self._chunk_end(data, start + size)

    def _chunk_end(self, data: bytes, position: int) -> int:
        line_end = data[position : position + 2]
        if line_end == b"\r\n":
            self._open = False
            return position + 2
        if line_end not in {b"", b"\r"}:
            raise MalformedBody("a chunk is longer than its size says")
        return position

    def _take_trailers(self, data: bytes) -> None:
        if data[:2] == b"\r\n":
            section, rest = b"", data[2:]
        else:
            section, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                if len(data) > MAX_TRAILER_BYTES:
                    raise MalformedBody("the trailer section is too long")
                self._pending = data
                return
            section += b"\r\n"
        if len(section) > MAX_TRAILER_BYTES:
            raise MalformedBody("the trailer section is too long")
        try:
            self.trailers = parse_trailers(section)
        except ValueError as exc:
            raise MalformedBody(f"in the trailers: {exc}") from exc
        self.done = True
        self.leftover = rest


def encode_chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return `data`, which is not empty, as a chunk, in parts that need no copy of it."""
    return (b"%x\r\n" % len(data), data, b"\r\n")


def encode_end(trailers: Sequence[Field]) -> bytes:
    """Return the last chunk and the trailer section."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % field for field in trailers])


def _check_size_line_so_far(rest: bytes) -> None:
    if len(rest) > MAX_SIZE_LINE_BYTES:
        raise MalformedBody("a chunk's size line is too long")
    if not _SIZE_LINE_PREFIX.fullmatch(rest):
        raise MalformedBody("a chunk does not begin with its size in hexadecimal")
