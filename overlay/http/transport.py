"""Byte streams as this package reads and writes them: sockets fast, other trio streams too.

What is between two machines is one of three: a plain socket, TLS on one (`tls_stream.py`), or a
stream of the overlay (`carried.py`).

A trio stream passes the scheduler on every call that could be answered at once, and again for every
timeout. On a plain socket that is most of what a small proxied request costs, so `SocketTransport`
calls the system directly, waits only when the system says so, and gives way to others after some
calls in a row. What it keeps of trio is the waiting, hence cancellation.

A whole message may be held until the loop's round ends (`outbox.py`). What comes of it, the next
call tells: a failure is raised by the next `receive` or `send`, and what the system did not take is
sent by whoever calls next, or by the reader that waits meanwhile.
"""

import os
import select
import socket
import struct
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Protocol

import trio
from trio.lowlevel import wait_readable

from overlay.http.alarm import alarms
from overlay.http.outbox import outbox

READ_BYTES = 64 * 1024
"""One read; with one write under way this bounds what a direction holds in memory."""
BULK_BYTES = 4 * READ_BYTES
"""One read of a connection that is relayed as it is, while more than `READ_BYTES` is there at once:
the relay takes three quarters of the time for a byte then."""
LEAST_RATE = 240.0
"""Bytes a second that the other end sends and takes at the least, beyond a grace; as in Kestrel."""
_CALLS_IN_A_ROW = 16
"""Calls answered at once before others get a turn; about half a millisecond of copying."""

HELD_BYTES = 16 * 1024
"""Of a message that is held; a longer one costs more to copy than a write of its own does."""

_PROBE_S = 15
"""Seconds between two questions of the system to a silent client that ended its direction."""


class SendFailed(trio.BrokenResourceError):
    """The connection is lost.

    Attributes:
        sent: bytes that the system had taken of this call; None if it cannot be known.
    """

    def __init__(self, sent: int | None) -> None:
        self.sent = sent
        super().__init__("the connection is lost")


class Transport(Protocol):
    """A stream of bytes both ways.

    Attributes:
        half_closes: the other end can end its direction and still read.
    """

    half_closes: bool

    async def receive(self, within_s: float = inf) -> bytes | None:
        """Return what arrived, b"" at the end, or None if nothing did in `within_s` seconds.

        Raises:
            trio.BrokenResourceError: the connection is lost.
        """
        ...

    async def send(self, *parts: bytes) -> None:
        """Send all of `parts`.

        Raises:
            SendFailed: the connection is lost.
        """
        ...

    def hold(self, message: bytes) -> bool:
        """Take a whole message, after which it is the other end's turn, to be sent soon.

        That it could not be sent is raised by `receive` as `SendFailed`.

        Returns:
            Whether it was taken; if not, `send` it.
        """
        ...

    def quiet(self) -> bool:
        """Return whether the connection stands and nothing waits to be read, without waiting."""
        ...

    def lost(self) -> bool:
        """Return whether the connection is known to be lost both ways, without waiting."""
        ...

    def probe(self) -> None:
        """Have the system ask from time to time whether the other end is still there."""
        ...

    async def end(self) -> None:
        """End our direction where the stream can do so; the other direction stays open."""
        ...

    async def aclose(self) -> None:
        """Close in order."""
        ...

    async def abort(self, *, reset: bool = False) -> None:
        """Close at once; with `reset` the other end gets an error instead of an end if it can."""
        ...


def transport(stream: trio.abc.Stream, send_timeout_s: float = inf) -> Transport:
    """Return `stream` as a transport, which owns it from then on.

    Args:
        stream: opened, and its handshake done.
        send_timeout_s: seconds in which the other end takes no byte (of a socket), or that it takes
            for what is sent at once beyond what that takes at `LEAST_RATE`; after them the
            connection counts as lost.
    """
    if isinstance(stream, trio.SocketStream):
        return SocketTransport(stream, send_timeout_s)
    if isinstance(stream, TransportStream):
        return stream.as_transport(send_timeout_s)
    return StreamTransport(stream, send_timeout_s)


class TransportStream(trio.abc.Stream):
    """A stream that is a transport itself."""

    @abstractmethod
    def as_transport(self, send_timeout_s: float) -> Transport:
        """Return this stream, after it took note of the bound; see `transport`."""


class SocketTransport:
    """A plain socket.

    Attributes:
        send_timeout_s: seconds in which the other end takes no byte, after which the connection
            counts as lost.
        most_bytes: of one read, while one after the other is full.
    """

    __slots__ = (
        "_alarms",
        "_calls",
        "_failure",
        "_held",
        "_more",
        "_outbox",
        "_poll",
        "_stream",
        "_stuck",
        "_token",
        "_writing",
        "alarm_at",
        "deadline",
        "fd",
        "half_closes",
        "most_bytes",
        "send_timeout_s",
    )

    def __init__(self, stream: trio.SocketStream, send_timeout_s: float = inf) -> None:
        self._stream = stream
        self.fd = stream.socket.fileno()
        self._poll: select.poll | None = None
        self._more = False  # the last read was full, so that another is likely to succeed at once
        self._calls = 0
        self.send_timeout_s = send_timeout_s
        self.most_bytes = READ_BYTES
        self._alarms = alarms()
        self._outbox = outbox()
        self._held = b""
        self._stuck = False  # not all of what was held could be sent; `_send_held` goes on
        self._writing: trio.Event | None = None
        self._failure: SendFailed | None = None
        self._token = trio.lowlevel.current_trio_token()
        self.deadline = inf
        self.alarm_at = inf
        self.half_closes = True

    async def receive(self, within_s: float = inf) -> bytes | None:
        """See `Transport`."""
        if self._more and (data := await self._read_more()) is not None:
            return data
        self._calls = 0
        until = inf if within_s == inf else self._alarms.now() + within_s
        while True:
            if self._stuck:
                await self._send_held()
            if self.fd < 0:
                raise trio.BrokenResourceError("the connection is closed")
            self.deadline = until
            if until < self.alarm_at:
                self._alarms.set(self)
            try:
                await wait_readable(self.fd)
            except trio.ClosedResourceError:
                if self._rung(until):
                    return None
            finally:
                self.deadline = inf
            if self._stuck:
                await self._send_held()
            try:
                return self._read()
            except BlockingIOError:
                continue

    async def send(self, *parts: bytes) -> None:
        """See `Transport`."""
        if self._held or self._stuck or self._writing is not None:
            await self._send_held()
        try:
            sent = os.write(self.fd, parts[0]) if len(parts) == 1 else os.writev(self.fd, parts)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise SendFailed(0) from exc
        if sent != (len(parts[0]) if len(parts) == 1 else sum(map(len, parts))):
            await self._send_rest(parts, sent)
        self._calls += 1
        if self._calls >= _CALLS_IN_A_ROW:
            await self._give_way()

    def hold(self, message: bytes) -> bool:
        """See `Transport`."""
        if self._held or len(message) > HELD_BYTES or self._writing is not None:
            return False
        self._held = message
        if not self._outbox.add(self):
            self.flush()
        return True

    def holds(self) -> bool:
        """Return whether the system does not take all of what is held."""
        self.flush()
        return bool(self._held)

    def may_hold(self, size: int) -> bool:
        """Return whether `hold` would take a message of `size` bytes."""
        return not self._held and size <= HELD_BYTES and self._writing is None

    def flush(self) -> None:
        """See `Holding`; the next call tells what came of it."""
        if (
            self._stream.socket.fileno() != self.fd
        ):  # closed under this; the number may be another's
            self._close()
        elif self._held and not self._stuck:
            self._write_held()
            if self._stuck:
                self._token.run_sync_soon(self._wake)  # the reader may wait for what never comes

    def _write_held(self) -> None:
        try:
            sent = os.write(self.fd, self._held)
        except BlockingIOError:
            self._stuck = True
        except OSError as exc:
            self._failure = SendFailed(None if self._stuck else 0)
            self._failure.__cause__ = exc
            self._held, self._stuck = b"", True
        else:
            self._held = self._held[sent:]
            self._stuck = bool(self._held)

    def quiet(self) -> bool:
        """See `Transport`."""
        return not self._polled()

    def lost(self) -> bool:
        """See `Transport`."""
        return bool(self._polled() & (select.POLLERR | select.POLLHUP | select.POLLNVAL))

    def probe(self) -> None:
        """See `Transport`."""
        with suppress(OSError):
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
            self._stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)

    async def end(self) -> None:
        """See `Transport`."""
        await self._send_held()
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError from exc

    async def aclose(self) -> None:
        """See `Transport`."""
        try:
            with suppress(SendFailed):
                await self._send_held()
        finally:
            self._close()

    async def abort(self, *, reset: bool = False) -> None:
        """See `Transport`."""
        self.flush()
        if reset and self.fd >= 0:
            linger = struct.pack("ii", 1, 0)
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._close()

    def _close(self) -> None:
        self.fd = -1
        self._held = b""
        self._poll = None
        self._stream.socket.close()

    async def _read_more(self) -> bytes | None:
        """Return what is there already, if anything is."""
        if self._calls >= _CALLS_IN_A_ROW:
            await self._give_way()
        try:
            return self._read()
        except BlockingIOError:
            return None

    def _read(self) -> bytes:
        try:
            data = os.read(self.fd, self.most_bytes if self._more else READ_BYTES)
        except BlockingIOError:
            self._more = False
            raise
        except OSError as exc:
            raise trio.BrokenResourceError("the connection is lost") from exc
        self._more = len(data) >= READ_BYTES
        self._calls += len(data) // READ_BYTES
        return data

    def _rung(self, until: float) -> bool:
        """Return whether the alarm that woke a reader was for this wait, and not for another.

        Raises:
            trio.BrokenResourceError: it was none: the connection was closed.
        """
        if self.fd < 0:
            raise trio.BrokenResourceError("the connection was closed meanwhile") from None
        return self._alarms.now() >= until

    async def _wait(self, ready: Callable[[int], Awaitable[None]]) -> None:
        """Wait without a deadline; the caller tries again if another wait's alarm woke it."""
        try:
            await ready(self.fd)
        except trio.ClosedResourceError:
            if self.fd < 0:
                raise trio.BrokenResourceError("the connection was closed meanwhile") from None

    def _wake(self) -> None:
        """Have the reader look at what became of what was held."""
        if self.fd >= 0:
            trio.lowlevel.notify_closing(self.fd)

    async def _send_held(self) -> None:
        """Return when the system has taken what is held; a cancelled call leaves the rest held.

        Raises:
            SendFailed: it will not.
        """
        while self._writing is not None:
            await self._writing.wait()
        if self._held:
            with self._writes():
                self._write_held()
                while self._held:
                    await self._until_writable(None)
                    self._write_held()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _writes(self) -> Iterator[None]:
        """Keep others from writing while this task waits until it can."""
        writing = self._writing = trio.Event()
        try:
            yield
        finally:
            self._writing = None
            writing.set()

    async def _give_way(self) -> None:
        """Give others a turn; who calls counts, as a coroutine for each call costs 0.3 µs."""
        self._calls = 0
        await trio.lowlevel.checkpoint()

    async def _send_rest(self, parts: tuple[bytes, ...], sent: int) -> None:
        rest = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))[sent:]
        latest = trio.current_time() + self.send_timeout_s + len(rest) / LEAST_RATE
        with self._writes():
            while rest:
                await self._until_writable(sent, latest)
                try:
                    taken = os.write(self.fd, rest)
                except BlockingIOError:
                    continue
                except OSError as exc:
                    raise SendFailed(sent) from exc
                sent += taken
                rest = rest[taken:]

    async def _until_writable(self, sent: int | None, latest: float = inf) -> None:
        """Return when the system may take more; `sent` of the message it has taken."""
        self._calls = 0
        until = min(latest, trio.current_time() + self.send_timeout_s)
        with trio.move_on_at(until) as scope:
            await self._wait(trio.lowlevel.wait_writable)
        if scope.cancelled_caught:
            raise SendFailed(sent)

    def _polled(self) -> int:
        if self.fd < 0:
            return select.POLLNVAL
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLIN | select.POLLRDHUP)
        events = self._poll.poll(0)
        return events[0][1] if events else 0


class WatchedStream(trio.abc.HalfCloseableStream):
    """A stream without a socket that knows how it stands."""

    @abstractmethod
    def quiet(self) -> bool:
        """See `Transport`."""

    @abstractmethod
    def lost(self) -> bool:
        """See `Transport`."""


class StreamTransport:
    """Any other trio stream: one of the overlay, or memory in tests."""

    __slots__ = ("_send_timeout_s", "_stream", "half_closes")

    def __init__(self, stream: trio.abc.Stream, send_timeout_s: float = inf) -> None:
        self._stream = stream
        self._send_timeout_s = send_timeout_s
        self.half_closes = isinstance(stream, trio.abc.HalfCloseableStream)

    async def receive(self, within_s: float = inf) -> bytes | None:
        """See `Transport`."""
        if within_s == inf:
            return await self._receive()
        with trio.move_on_after(within_s):
            return await self._receive()
        return None

    async def send(self, *parts: bytes) -> None:
        """See `Transport`."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            if self._send_timeout_s == inf:
                await self._stream.send_all(data)
                return
            within_s = self._send_timeout_s + len(data) / LEAST_RATE
            with trio.move_on_after(within_s) as scope:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise SendFailed(None) from exc
        if scope.cancelled_caught:
            raise SendFailed(None)

    def hold(self, message: bytes) -> bool:
        """See `Transport`."""
        del message
        return False

    def quiet(self) -> bool:
        """See `Transport`."""
        return not isinstance(self._stream, WatchedStream) or self._stream.quiet()

    def lost(self) -> bool:
        """See `Transport`."""
        return isinstance(self._stream, WatchedStream) and self._stream.lost()

    def probe(self) -> None:
        """See `Transport`: there is nothing to ask."""

    async def end(self) -> None:
        """See `Transport`."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """See `Transport`."""
        await self._stream.aclose()

    async def abort(self, *, reset: bool = False) -> None:
        """See `Transport`: without the end mark the other end sees a cut."""
        del reset
        await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError("the connection is closed") from exc
