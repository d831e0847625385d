"""A worker's end of a lane: what one caller sends it, and what goes back.

Each lane has a thread that reads, so that a word to stop earlier, or the caller's end, is heard at
once. What is to be computed the process's main thread takes from it by turns (`workbench.py`),
because only that one can be interrupted. A chunk may be left at an item's end and taken up again
later, so that long chunks of one caller do not keep the others out.
"""

import hashlib
import os
import pickle
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, NoReturn, Protocol

from myxo.mapping.faults import Fault, fault_of
from myxo.mapping.frames import (
    HEAD,
    LENGTH,
    PROTOCOL,
    Bytes,
    Frame,
    Kind,
    MalformedFrame,
    decode_head,
    decode_lengths,
    encode,
    in_few,
)
from myxo.mapping.interrupts import Interrupted, Interrupts
from myxo.mapping.packing import pack, unpack, unpicklable
from myxo.mapping.shortcuts import Offer, offered

GRACE_S = 2.0
"""For a function to let itself be interrupted; then its process ends."""

MAX_QUEUED = 8
"""Chunks that wait, and words to stop; a caller sends two chunks."""

MAX_HEAD_BYTES = 64 << 10
HEAD_S = 10.0
STALLED_S = 10.0
"""A caller that takes nothing for so long is given up: others wait for this worker."""

STILL_S = 1.0
"""Between two words on a connection that only holds the worker: proxies end what is silent."""

FUNCTIONS = 32
"""Functions that stay loaded between callers."""

BATCH_S = 0.001
MAX_BATCH = 4096
"""Items that are computed between two looks at the clock, and how long those should take."""

Function = Callable[[Any], Any]


class Bench(Protocol):
    """Where it is computed, as lanes see it.

    Attributes:
        id: of the worker.
        interrupts: of its main thread.
        functions: loaded ones by digest, kept between callers.
    """

    id: str
    interrupts: Interrupts
    functions: dict[bytes, Function]

    def changed(self, lane: "WorkerLane") -> None:
        """Take in that a lane may have something to compute."""

    def left(self, lane: "WorkerLane") -> None:
        """Take in that a lane's caller is gone; return when nothing is computed for it."""


@dataclass(slots=True)
class Chunk:
    """What is computed now, or was left for a while.

    Attributes:
        values: the results so far, with None where there is a fault.
        sent: how many of them were sent.
        since: when what is not sent yet began to be computed.
        began: when the item under way began; infinity while the chunk is left.
    """

    id: int
    start: int
    items: Sequence[Any]
    since: float
    began: float
    values: list[Any] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    sent: int = 0


class WorkerLane:
    """Serves one connection.

    Args:
        connection: accepted, nothing read.
        bench: where it is computed.

    Attributes:
        gone: nobody waits for what is computed.
        away: the caller was told that others are computed for.
    """

    def __init__(self, connection: socket.socket, bench: Bench) -> None:
        self._connection = connection
        self._holding: socket.socket | None = None
        self._still_at = 0.0
        self._bench = bench
        self._setup: deque[Frame] = deque()
        self._chunks: deque[Frame] = deque()
        self._stops: dict[int, int] = {}
        self._done = -1
        self._function: Function | None = None
        self._digest = b""
        self._timeout_s: float | None = None
        self._chunk: Chunk | None = None
        self._sending = threading.RLock()
        self._said_bye = False
        self.gone = False
        self.away = False

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        if self.gone:
            return False
        return bool(self._setup or (self._function and (self._chunks or self._chunk)))

    @property
    def has_chunks(self) -> bool:
        """Whether it holds items that were not answered."""
        return bool(self._chunks or self._chunk)

    # Its own thread: the connection

    def run(self) -> None:
        """Return when the caller has gone."""
        try:
            with self._connection:
                if self._welcome():
                    self._serve()
        except (OSError, EOFError, MalformedFrame):
            return  # the caller's trouble, or its end

    def _serve(self) -> None:
        with self._connection:  # it may be another one by now
            try:
                self._read()
            finally:
                self.gone = True
                self._bench.left(self)

    def _welcome(self) -> bool:
        """Answer the HTTP request; return whether a lane follows."""
        self._connection.settimeout(HEAD_S)
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._connection.recv(MAX_HEAD_BYTES - len(head))
            if not data:
                return False
            head += data
        fields = head.lower().split(b"\r\n")
        if f"upgrade: {PROTOCOL}".encode() not in fields:
            text = b"a worker of myxo.map\n"
            self._connection.sendall(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(text), text)
            )
            return False
        self._connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: %s\r\n\r\n" % PROTOCOL.encode()
        )
        self._connection.settimeout(None)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _bound(self._connection)
        shortcut = offered()
        hello = self._what_this_is(None if shortcut is None else shortcut.offer)
        self.send(Frame(Kind.HELLO, parts=pack(hello)))
        if shortcut is not None:
            self._go_on_at(shortcut.taken(self._connection))
        return True

    def _go_on_at(self, past_the_proxy: socket.socket | None) -> None:
        if past_the_proxy is None:
            return
        _bound(past_the_proxy)
        with self._sending:
            self._holding, self._connection = self._connection, past_the_proxy
            if self._said_bye:
                self.send(Frame(Kind.BYE))

    def _what_this_is(self, shortcut: Offer | None) -> dict[str, Any]:
        return {
            "shortcut": shortcut,
            "id": self._bench.id,
            "python": sys.version_info[:3],
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }

    def _read(self) -> None:
        """Keep frames as they come, and heed at once what cannot wait."""
        while True:
            frame = self._receive()
            match frame.kind:
                case Kind.STOP:
                    self._note_stop(frame)
                case Kind.BEGIN | Kind.FUNCTION:
                    self._setup.append(frame)
                case Kind.CHUNK | Kind.RISKED:
                    self._chunks.append(frame)
                case Kind.BYE:
                    return
                case _:
                    raise MalformedFrame(f"{frame.kind.name} is not for a worker")
            if max(len(self._setup), len(self._chunks), len(self._stops)) > MAX_QUEUED:
                raise MalformedFrame("more came than a worker holds")
            self._bench.changed(self)

    def _note_stop(self, frame: Frame) -> None:
        # Chunks of a lane come in the order of their numbers; of done ones nothing is kept.
        for chunk in tuple(self._stops):
            if chunk <= self._done:
                self._stops.pop(chunk, None)
        self._stops[frame.chunk] = frame.upto

    def _receive(self) -> Frame:
        head = decode_head(self._exactly(HEAD.size))
        lengths = decode_lengths(self._exactly(head.parts * LENGTH.size))
        return Frame(head.kind, head.chunk, head.upto, [self._exactly(n) for n in lengths])

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            # Waiting for all of it in the system does not take the lock from what is computed.
            read = self._connection.recv_into(view[at:], 0, socket.MSG_WAITALL)
            if not read:
                raise EOFError
            at += read
        return data

    # From any thread: the way back

    def send(self, frame: Frame) -> None:
        """Write a frame whole; a caller that is gone or stalled is its own thread's to hear of."""
        try:
            with self._sending:
                for part in in_few(encode(frame)):
                    self._connection.sendall(part)
        except OSError:
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection, which ends the lane's thread."""
        self.gone = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def say_bye(self) -> None:
        """Tell the caller that this worker is to end."""
        with self._sending:
            if not self._said_bye:
                self._said_bye = True
                self.send(Frame(Kind.BYE))

    def watch(self) -> None:
        """Report what was computed, and see that no item takes too long."""
        self._say_still()
        chunk = self._chunk
        if chunk is not None:
            self._report(chunk, computing=True)
            self._watch_time(chunk)

    def _say_still(self) -> None:
        """Have something move on a connection that the frames go past."""
        now = time.monotonic()
        if self._holding is None or now - self._still_at < STILL_S:
            return
        self._still_at = now
        try:
            with self._sending:
                self._holding.sendall(b"".join(encode(Frame(Kind.STILL))))
        except OSError:
            self.hang_up()

    # The main thread: what the caller asks for

    def step(self, may_go_on: Callable[[], bool]) -> None:
        """Do the next thing that the caller asked for.

        Args:
            may_go_on: asked between items; a chunk is left where it is False.
        """
        try:
            if self._setup:
                frame = self._setup.popleft()
                if frame.kind is Kind.BEGIN:
                    self._begin(*unpack(frame.parts))
                else:
                    self._load(frame.parts[0])
            elif self._function is not None:
                self._compute(self._function, may_go_on)
        except MalformedFrame:
            self.hang_up()

    def _begin(self, digest: bytes, timeout_s: float | None) -> None:
        functions = self._bench.functions
        self._chunk = None  # of the map before: nobody waits for what is left of it
        self._digest, self._timeout_s = digest, timeout_s
        self._function = functions.get(digest)
        if self._function is None:
            self.send(Frame(Kind.NEED))
        else:
            functions[digest] = functions.pop(digest)  # the last to be dropped

    def _load(self, pickled: Bytes) -> None:
        functions = self._bench.functions
        if hashlib.sha256(pickled).digest() != self._digest:
            raise MalformedFrame("the function is not the one that was named")
        try:
            with self._bench.interrupts.computing(self):
                function = pickle.loads(pickled)  # noqa: S301  (code is what is sent here)
        except Interrupted:
            _end_half_imported()
        except Exception as exc:  # noqa: BLE001  (whatever importing runs)
            if self.gone:
                _end_half_imported()
            self.send(Frame(Kind.REFUSED, parts=pack(fault_of(exc, leave_out=1))))
            return
        self._function = functions[self._digest] = function
        while len(functions) > FUNCTIONS:
            del functions[next(iter(functions))]

    # Computing

    def _compute(self, function: Function, may_go_on: Callable[[], bool]) -> None:
        """Compute a chunk as far as it is wanted and may be, and send what was not sent yet."""
        chunk = self._chunk or self._next_chunk()
        if chunk is None:
            return
        self._chunk = chunk
        chunk.since = chunk.began = time.monotonic()
        self._compute_items(chunk, function, may_go_on)
        self._report(chunk)
        chunk.began = inf
        if len(chunk.values) >= self._wanted(chunk):
            self._chunk = None
            self._done = chunk.id
            self._stops.pop(chunk.id, None)

    def _next_chunk(self) -> Chunk | None:
        frame = self._chunks.popleft()
        if frame.kind is Kind.RISKED:  # before it is unpickled, which may be what ends the process
            self.send(Frame(Kind.BEGUN, frame.chunk))
        now = time.monotonic()
        try:
            return Chunk(frame.chunk, frame.upto, unpack(frame.parts), now, now)
        except Exception as exc:  # noqa: BLE001  (whatever importing runs)
            self._done = frame.chunk
            self.send(Frame(Kind.UNREADABLE, frame.chunk, parts=pack(fault_of(exc, leave_out=2))))
            return None

    def _wanted(self, chunk: Chunk) -> int:
        items = len(chunk.items)
        return min(items, self._stops.get(chunk.id, chunk.start + items) - chunk.start)

    def _compute_items(
        self, chunk: Chunk, function: Function, may_go_on: Callable[[], bool]
    ) -> None:
        batch = 1
        while not self.gone:
            done, wanted = len(chunk.values), self._wanted(chunk)
            if done >= wanted:
                return
            chunk.began = began = time.monotonic()
            self._compute_batch(chunk, function, min(done + batch, wanted))
            if self._timeout_s is None:
                short = time.monotonic() - began < BATCH_S
                batch = min(MAX_BATCH, batch * 2) if short else max(1, batch // 4)
            if not may_go_on():
                return

    def _compute_batch(self, chunk: Chunk, function: Function, upto: int) -> None:
        """Compute items up to a position in the chunk, or up to the first that fails."""
        values = chunk.values
        try:
            with self._bench.interrupts.computing(self):
                for item in chunk.items[len(values) : upto]:
                    values.append(function(item))
        except Interrupted:
            if not self.gone and len(values) < upto:
                self._add_overdue(chunk)
        except BaseException as exc:  # noqa: BLE001  (the caller's code; SystemExit as any other)
            self._add_fault(chunk, fault_of(exc, leave_out=1))

    def _add_fault(self, chunk: Chunk, fault: Fault) -> None:
        chunk.faults[len(chunk.values)] = fault
        chunk.values.append(None)

    def _add_overdue(self, chunk: Chunk) -> None:
        text = f"the item took over {self._timeout_s:g} s"
        self._add_fault(
            chunk, Fault("TimeoutError", text, pickled=pickle.dumps(TimeoutError(text)))
        )

    # Reporting

    def _report(self, chunk: Chunk, *, computing: bool = False) -> None:
        """Send what has been computed of a chunk and was not sent."""
        with self._sending:
            upto, first = len(chunk.values), chunk.sent
            if upto == first:
                return
            now = time.monotonic()
            busy_s, chunk.since = now - chunk.since, now
            chunk.sent = upto
            faults = {at - first: f for at, f in tuple(chunk.faults.items()) if first <= at < upto}
            parts = _packed(busy_s, chunk.values[first:upto], faults)
            self.send(Frame(Kind.OUTCOMES, chunk.id, chunk.start + upto, parts))
            if not computing:
                chunk.since = time.monotonic()

    def _watch_time(self, chunk: Chunk) -> None:
        """Interrupt an item that has taken too long; end the process if that does not help."""
        if self._timeout_s is None:
            return
        over_s = time.monotonic() - chunk.began - self._timeout_s
        if over_s <= 0 or self._chunk is not chunk:
            return
        if over_s < GRACE_S:
            self._bench.interrupts.interrupt(self)
            return
        self._add_overdue(chunk)
        self._report(chunk)
        os._exit(1)


def _bound(connection: socket.socket) -> None:
    """Have it fail when the other end takes nothing for `STALLED_S`."""
    seconds = struct.pack("ll", int(STALLED_S), 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)


def _end_half_imported() -> NoReturn:
    """End the process: an import was broken off, and may never be possible in it again."""
    os._exit(1)


def _packed(busy_s: float, values: list[Any], faults: dict[int, Fault]) -> list[Bytes]:
    """Return outcomes as parts; a result that cannot be pickled becomes a fault."""
    try:
        return pack((busy_s, values, faults))
    except Exception:  # noqa: BLE001  (whatever a class of the user's does there)
        for at, exc in unpicklable(tuple(values)):
            values[at] = None
            faults[at] = fault_of(exc)
        return pack((busy_s, values, faults))
