"""A local UDP port: whoever sends datagrams to it has a session, until it is silent for long.

A session is one end of a tunnel of its own, so that answers find their way back. What comes while
its tunnel is being opened, an instance started perhaps, waits in a short queue. A session whose
tunnel is lost is over; the client's next datagram begins another one, which goes elsewhere.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import structlog
import trio

from overlay.advertising import host_port
from overlay.datagram_end import MAX_DATAGRAM_BYTES
from overlay.errors import AddressTaken
from overlay.tunnel import End

MAX_SESSIONS = 1024
"""Clients of one port at once; datagrams of more are dropped, as on a full link."""

ANSWERS_S = 5.0
"""How long answers to what came before are passed on once another process reads from a port."""

QUEUE = 64
"""Datagrams of one client that wait, at most 4 MiB; more are dropped."""

log = structlog.get_logger()

Address = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Session:
    """A client's datagrams as one end of a tunnel; see `tunnel.End`."""

    sock: trio.socket.SocketType
    client: Address
    _queue: "tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]" = field(
        default_factory=lambda: trio.open_memory_channel[bytes](QUEUE)
    )

    def take(self, data: bytes) -> bool:
        """Take in a datagram; return whether there was room."""
        try:
            self._queue[0].send_nowait(data)
        except trio.WouldBlock:
            return False
        return True

    async def receive(self) -> bytes | None:
        return await self._queue[1].receive()

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data) or 1, MAX_DATAGRAM_BYTES):
            try:
                await self.sock.sendto(data[at : at + MAX_DATAGRAM_BYTES], self.client)
            except OSError as exc:
                log.debug("session.answer_lost", client=self.client, error=str(exc))

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def cut(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(slots=True)
class DatagramPort:
    """A bound UDP port.

    Attributes:
        dropped: datagrams that found no room.
    """

    sock: trio.socket.SocketType
    dropped: int = 0
    _sessions: dict[Address, _Session] = field(default_factory=dict)
    _ended: trio.Event = field(default_factory=trio.Event)
    _reading: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def number(self) -> int:
        """Of the port."""
        return cast("int", self.sock.getsockname()[1])

    def leave(self) -> None:
        """Read no more, since another process does; sessions may answer for `ANSWERS_S`."""
        self._reading.cancel()

    async def serve(
        self, carry: Callable[[End, str], Awaitable[None]], stopping: trio.Event
    ) -> None:
        """Have `carry` run once for each session, until cancelled; then the port is closed.

        It is given the session and the client's IP address. Once `stopping` is set no session
        begins, and it returns when the last one has ended.
        """
        with self.sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop, stopping, nursery.cancel_scope)
                with self._reading:
                    await self._read(nursery, carry, stopping)
                nursery.cancel_scope.deadline = trio.current_time() + ANSWERS_S

    async def _read(
        self,
        nursery: trio.Nursery,
        carry: Callable[[End, str], Awaitable[None]],
        stopping: trio.Event,
    ) -> None:
        while True:
            try:
                data, sender = await self.sock.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:  # an answer that a client did not want, said by its kernel
                continue
            session = self._sessions.get(sender[:2])
            room = len(self._sessions) < MAX_SESSIONS and not stopping.is_set()
            if session is None and room:
                session = self._sessions[sender[:2]] = _Session(self.sock, sender[:2])
                nursery.start_soon(self._hold, session, carry)
            if session is None or not session.take(data):
                self.dropped += 1

    async def _stop(self, stopping: trio.Event, serving: trio.CancelScope) -> None:
        await stopping.wait()
        while self._sessions:
            self._ended = trio.Event()
            await self._ended.wait()
        serving.cancel()

    async def _hold(self, session: _Session, carry: Callable[[End, str], Awaitable[None]]) -> None:
        try:
            await carry(session, session.client[0])
        finally:
            del self._sessions[session.client]
            self._ended.set()


async def open_port(host: str, port: int, *, what: str) -> DatagramPort:
    """Return a bound UDP port; 0 is any.

    Raises:
        AddressTaken: naming the port and what it was for.
    """
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
    try:
        await sock.bind((host, port))
    except OSError as exc:
        sock.close()
        where = f"UDP {host_port(host, port)} for {what}"
        if exc.errno == errno.EADDRINUSE:
            raise AddressTaken(
                f"{where} is already in use by another process; choose another port"
            ) from exc
        raise AddressTaken(f"{where} cannot be listened on: {exc.strerror}") from exc
    return DatagramPort(sock)
