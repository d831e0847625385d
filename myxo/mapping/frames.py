"""What goes over a lane: frames of a kind, a chunk's number and a payload.

A lane is an HTTP/1.1 connection to a worker that was upgraded to `myxo-map/3`. The worker says what
it is (HELLO). For each function the caller sends its digest (BEGIN), and the function itself where
the worker asks for it (NEED, FUNCTION); one that cannot be used there is REFUSED. Then chunks go
one way (CHUNK), outcomes the other (OUTCOMES), as they are computed; a chunk may be told to end
earlier (STOP); one with an item that cannot be unpickled there is UNREADABLE. An item that may be
to blame for the loss of a worker is sent as one that is RISKED, and the next worker says when it
has BEGUN with it. A worker that serves others too says when it turns to them and leaves what came
for later (AWAY), and when it is back (BACK). A caller says that it sends no more (BYE), and so does
a worker that is to end: it takes nothing new, and what it still answers counts. An end of the
connection without it is a loss, and what was computed there may be to blame. Where frames go past
the proxy (`shortcuts.py`), the worker says there from time to time that it is used (STILL).

A payload is one pickle, or several parts: the pickle and the buffers that it leaves out, which are
sent from where they lie and read to where they stay.

A lane may go through several maps of one program, one after the other, each with a BEGIN of its
own; numbers of chunks go on from one to the next.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

PROTOCOL = "myxo-map/3"

HEAD = struct.Struct("!BIQH")
"""Kind, chunk, the index behind the payload's last item or 0, and the number of parts."""

LENGTH = struct.Struct("!Q")

MAX_PARTS = 1024
"""Of one payload; what has more buffers is pickled with them in line."""

SMALL_BYTES = 1 << 18
"""Up to this size pieces are joined before they are written, as each write wakes who reads; larger
ones are not copied."""

MAX_PART_BYTES = 8 << 30
"""Of one part; larger is refused before any of it is read."""

Bytes = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    BEGIN = 2
    NEED = 3
    FUNCTION = 4
    CHUNK = 5
    STOP = 6
    OUTCOMES = 7
    REFUSED = 8
    BYE = 9
    AWAY = 10
    BACK = 11
    STILL = 12
    RISKED = 13
    BEGUN = 14
    UNREADABLE = 15


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a lane.

    Attributes:
        kind: what it is for.
        chunk: the number of the chunk that it is about, or 0.
        upto: of STOP and OUTCOMES, the index behind the last; of CHUNK and RISKED, its first index.
        parts: the payload.
    """

    kind: Kind
    chunk: int = 0
    upto: int = 0
    parts: Sequence[Bytes] = ()


@dataclass(frozen=True, slots=True)
class Announced:
    """A frame's head: what is to be read behind it are the lengths of `parts`, then these."""

    kind: Kind
    chunk: int
    upto: int
    parts: int


class MalformedFrame(Exception):
    """The other end does not speak this protocol."""


def encode(frame: Frame) -> list[Bytes]:
    """Return what is to be written, in order; large parts are not copied."""
    lengths = b"".join(LENGTH.pack(memoryview(part).nbytes) for part in frame.parts)
    head = HEAD.pack(frame.kind, frame.chunk, frame.upto, len(frame.parts)) + lengths
    return [head, *frame.parts]


def in_few(pieces: Sequence[Bytes]) -> list[Bytes]:
    """Return the same bytes with small neighbours joined, for fewer calls of the system."""
    joined: list[Bytes] = []
    small: list[Bytes] = []
    for piece in pieces:
        if memoryview(piece).nbytes <= SMALL_BYTES:
            small.append(piece)
            continue
        joined += [b"".join(small), piece]
        small = []
    return [piece for piece in [*joined, b"".join(small)] if len(piece)]


def decode_head(data: Bytes) -> Announced:
    """Return what a frame's first `HEAD.size` bytes say.

    Raises:
        MalformedFrame: they are none.
    """
    kind, chunk, upto, parts = HEAD.unpack(data)
    if parts > MAX_PARTS:
        raise MalformedFrame(f"a frame of {parts} parts came, over {MAX_PARTS}")
    try:
        return Announced(Kind(kind), chunk, upto, parts)
    except ValueError as exc:
        raise MalformedFrame(f"a frame of the unknown kind {kind} came") from exc


def decode_lengths(data: Bytes) -> list[int]:
    """Return the lengths of a frame's parts.

    Raises:
        MalformedFrame: one is over `MAX_PART_BYTES`.
    """
    lengths = [length for (length,) in LENGTH.iter_unpack(data)]
    if any(length > MAX_PART_BYTES for length in lengths):
        raise MalformedFrame(f"a part of {max(lengths)} bytes came, over {MAX_PART_BYTES}")
    return lengths
