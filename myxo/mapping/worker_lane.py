"""A worker's end of a lane: frames come in while the main thread computes, outcomes go out.

Three threads share a lane. The main one computes, because only it can be interrupted. One reads, so
that a word to stop earlier, or the caller's end, is heard at once. One sends what has been computed
every few milliseconds, so that the caller knows how far a slow chunk is, and watches the time of an
item.
"""

import hashlib
import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

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

REPORT_S = 0.02
"""Between what is sent of a chunk that is being computed."""

GRACE_S = 2.0
"""For a function to let itself be interrupted; then its process ends."""

MAX_QUEUED = 8
"""Chunks that wait; a caller sends two."""

MAX_HEAD_BYTES = 64 << 10
BATCH_S = 0.001
MAX_BATCH = 4096
"""Items that are computed between two looks at the clock, and how long those should take."""

Function = Callable[[Any], Any]


@dataclass(slots=True)
class _Chunk:
    """What is computed now.

    Attributes:
        values: the results so far, with None where there is a fault.
        sent: how many of them were sent.
        since: when what is not sent yet began to be computed.
        began: when the item under way began.
    """

    id: int
    start: int
    items: list[Any]
    since: float
    began: float
    values: list[Any] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    sent: int = 0


class WorkerLane:
    """Serves one connection to its end.

    Args:
        connection: accepted, nothing read.
        functions: loaded ones by digest, kept between callers.
        interrupts: of this process.
    """

    def __init__(
        self,
        connection: socket.socket,
        functions: dict[bytes, Function],
        interrupts: Interrupts,
    ) -> None:
        self._connection = connection
        self._functions = functions
        self._interrupts = interrupts
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._waiting_chunks = 0
        self._stops: dict[int, int] = {}
        self._function: Function | None = None
        self._digest = b""
        self._timeout_s: float | None = None
        self._chunk: _Chunk | None = None
        self._sending = threading.RLock()
        self._gone = False
        self._wake = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        """Return when the caller has gone or the worker is to end.

        Raises:
            Drained: the worker was told to end while it waited for the caller.
        """
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with self._interrupts.waiting():
                if not self._welcome():
                    return
            threads = [threading.Thread(target=self._read), threading.Thread(target=self._watch)]
            for thread in threads:
                thread.daemon = True
                thread.start()
            try:
                self._serve()
            finally:
                self._end(threads)
        except (OSError, MalformedFrame):
            return  # the caller's trouble, or its end

    def _end(self, threads: list[threading.Thread]) -> None:
        """See that neither thread can interrupt what the next lane computes."""
        self._gone = True
        self._ended.set()
        self._wake.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    # The connection

    def _welcome(self) -> bool:
        """Answer the HTTP request; return whether a lane follows."""
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
        return True

    def _read(self) -> None:
        """Hand on frames as they come, and what cannot wait at once."""
        try:
            while True:
                frame = self._receive()
                if frame.kind is Kind.STOP:
                    self._stops[frame.chunk] = frame.upto
                    continue
                self._queue(frame)
                if frame.kind is Kind.BYE:
                    return
        except (OSError, EOFError, MalformedFrame):
            self._abandon()

    def _queue(self, frame: Frame) -> None:
        if frame.kind is Kind.CHUNK:
            self._waiting_chunks += 1
            if self._waiting_chunks > MAX_QUEUED:
                raise MalformedFrame("more chunks came than a worker holds")
        self._frames.put(frame)

    def _abandon(self) -> None:
        """Stop what is computed: nobody waits for it."""
        if self._gone:
            return
        self._gone = True
        self._interrupts.interrupt()
        self._frames.put(None)
        if not self._ended.wait(GRACE_S):
            os._exit(1)

    def _receive(self) -> Frame:
        head = decode_head(self._exactly(HEAD.size))
        lengths = decode_lengths(self._exactly(head.parts * LENGTH.size))
        return Frame(head.kind, head.chunk, head.upto, [self._exactly(n) for n in lengths])

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            read = self._connection.recv_into(view[at:])
            if not read:
                raise EOFError
            at += read
        return data

    def _send(self, frame: Frame) -> None:
        with self._sending:
            for part in in_few(encode(frame)):
                self._connection.sendall(part)

    # What the caller asks for

    def _serve(self) -> None:
        self._send(Frame(Kind.HELLO, parts=pack(_what_this_is())))
        early: deque[Frame] = deque()
        while True:
            # Chunks are sent before the word has come back that the function is needed.
            frame = early.popleft() if early and self._function else self._next_frame()
            if frame is None or frame.kind is Kind.BYE:
                return
            if frame.kind is Kind.BEGIN:
                self._begin(*unpack(frame.parts))
            elif frame.kind is Kind.FUNCTION:
                self._load(frame.parts[0])
            elif frame.kind is not Kind.CHUNK:
                raise MalformedFrame(f"{frame.kind.name} is not for a worker")
            elif self._function is None:
                early.append(frame)
            else:
                self._compute(frame, self._function)
                if self._interrupts.draining:
                    self._send(Frame(Kind.BYE))
                    return

    def _next_frame(self) -> Frame | None:
        with self._interrupts.waiting():
            return self._frames.get()

    def _begin(self, digest: bytes, timeout_s: float | None) -> None:
        self._digest, self._timeout_s = digest, timeout_s
        self._function = self._functions.get(digest)
        if self._function is None:
            self._send(Frame(Kind.NEED))
        else:
            self._functions[digest] = self._functions.pop(digest)  # the last to be dropped

    def _load(self, pickled: Bytes) -> None:
        if hashlib.sha256(pickled).digest() != self._digest:
            raise MalformedFrame("the function is not the one that was named")
        try:
            with self._interrupts.computing():
                self._function = pickle.loads(pickled)  # noqa: S301  (code is what is sent here)
        except Exception as exc:  # noqa: BLE001  (whatever importing runs)
            if self._gone:
                # An import was broken off, and what is half imported may never be importable.
                os._exit(1)
            self._send(Frame(Kind.REFUSED, parts=pack(fault_of(exc, leave_out=1))))
            return
        if self._function is not None:
            self._functions[self._digest] = self._function

    # Computing

    def _compute(self, frame: Frame, function: Function) -> None:
        """Compute a chunk as far as it is wanted, and send what was not sent meanwhile."""
        self._waiting_chunks -= 1
        now = time.monotonic()
        try:
            chunk = _Chunk(frame.chunk, frame.upto, unpack(frame.parts), now, now)
        except Exception as exc:  # noqa: BLE001  (whatever importing runs)
            self._send(Frame(Kind.REFUSED, frame.chunk, parts=pack(fault_of(exc, leave_out=1))))
            return
        self._chunk = chunk
        self._wake.set()
        try:
            self._compute_items(chunk, function)
            self._report(chunk)
        finally:
            self._chunk = None
            self._wake.clear()
            self._stops.pop(chunk.id, None)

    def _compute_items(self, chunk: _Chunk, function: Function) -> None:
        batch, values, items = 1, chunk.values, chunk.items
        while not self._gone and not self._interrupts.draining:
            wanted = min(
                len(items), self._stops.get(chunk.id, chunk.start + len(items)) - chunk.start
            )
            if len(values) >= wanted:
                return
            chunk.began = began = time.monotonic()
            upto = min(len(values) + batch, wanted)
            try:
                with self._interrupts.computing():
                    for item in islice(items, len(values), upto):
                        values.append(function(item))
            except Interrupted:
                if self._gone:
                    return
                if len(values) < upto:
                    self._add_overdue(chunk)
            except Exception as exc:  # noqa: BLE001  (the caller's code)
                self._add_fault(chunk, fault_of(exc, leave_out=1))
            except SystemExit as exc:
                self._add_fault(chunk, fault_of(exc, leave_out=1))
            if self._timeout_s is None:
                short = time.monotonic() - began < BATCH_S
                batch = min(MAX_BATCH, batch * 2) if short else max(1, batch // 4)

    def _add_fault(self, chunk: _Chunk, fault: Fault) -> None:
        chunk.faults[len(chunk.values)] = fault
        chunk.values.append(None)

    def _add_overdue(self, chunk: _Chunk) -> None:
        text = f"the item took over {self._timeout_s:g} s"
        self._add_fault(
            chunk, Fault("TimeoutError", text, pickled=pickle.dumps(TimeoutError(text)))
        )

    # Reporting

    def _watch(self) -> None:
        """Report while a chunk is computed, and see that no item takes too long."""
        # A caller that has gone is the reading thread's to hear of.
        with suppress(OSError):
            while not self._gone:
                self._wake.wait()
                self._ended.wait(REPORT_S)
                chunk = self._chunk
                if chunk is not None:
                    self._report(chunk, computing=True)
                    self._watch_time(chunk)

    def _report(self, chunk: _Chunk, *, computing: bool = False) -> None:
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
            self._send(Frame(Kind.OUTCOMES, chunk.id, chunk.start + upto, parts))
            if not computing:
                chunk.since = time.monotonic()

    def _watch_time(self, chunk: _Chunk) -> None:
        """Interrupt an item that has taken too long; end the process if that does not help."""
        if self._timeout_s is None:
            return
        over_s = time.monotonic() - chunk.began - self._timeout_s
        if over_s <= 0 or self._chunk is not chunk:
            return
        if over_s < GRACE_S:
            self._interrupts.interrupt()
            return
        self._add_overdue(chunk)
        self._report(chunk)
        os._exit(1)


def _what_this_is() -> dict[str, Any]:
    return {"python": sys.version_info[:3], "pid": os.getpid(), "host": socket.gethostname()}


def _packed(busy_s: float, values: list[Any], faults: dict[int, Fault]) -> list[Bytes]:
    """Return outcomes as parts; a result that cannot be pickled becomes a fault."""
    try:
        return pack((busy_s, values, faults))
    except Exception:  # noqa: BLE001  (whatever a class of the user's does there)
        for at, exc in unpicklable(tuple(values)):
            values[at] = None
            faults[at] = fault_of(exc)
        return pack((busy_s, values, faults))
