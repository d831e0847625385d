"""The caller's end of a lane: a connection to whichever worker the proxy chooses or starts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from socket import socket
from typing import Any

import trio

from myxo.mapping.connection import READ_BYTES, Connection
from myxo.mapping.errors import NoWorkers
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
from myxo.mapping.packing import unpack
from myxo.mapping.shortcuts import take
from myxo.mapping.spare_lanes import SPARE_LANES, Spare
from myxo.services.proxy_address import ProxyAddress
from overlay.names import ServiceName

MAX_ANSWER_BYTES = 1 << 16

LAST_NUMBER = 1 << 31
"""Of a chunk, behind which a lane is not kept for another map: a frame has 32 bits for it."""


class LaneLost(Exception):
    """The connection or the worker is gone; what was on the lane can be computed elsewhere."""


class Refused(Exception):
    """The proxy gave no worker.

    Attributes:
        status: its answer's.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Lane:
    """Frames to and from one worker.

    Attributes:
        worker: what it said of itself.
        id: which worker it is; one that was started anew has another.
        is_spare: its map has ended, and another may go on with it once its worker has done.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._holding: Connection | None = None
        self._buffer = bytearray()
        self._sending = trio.Lock()
        self._is_cut = False
        self.worker = self.id = ""
        self.python: tuple[int, ...] = ()
        self.is_spare = False
        self._first = self._next = 0
        self._due: dict[int, int] = {}

    @classmethod
    def of(cls, spare: Spare) -> "Lane":
        """Return a lane that an earlier map has done with."""
        lane = cls(Connection(spare.socket))
        lane._holding = None if spare.holding is None else Connection(spare.holding)
        lane.worker, lane.id, lane.python = spare.worker, spare.id, spare.python
        lane._first = lane._next = spare.numbered
        return lane

    def spare(self) -> Spare | None:
        """Return what another map may go on with, or None; this lane is not used any more then."""
        under_way = self._due or self._buffer or self._is_cut
        if not self.is_spare or under_way or self._next > LAST_NUMBER:
            return None
        holding = None if self._holding is None else self._holding.detach()
        connection = self._connection.detach()
        return Spare(connection, self.worker, self.id, self.python, self._next, holding)

    def close(self) -> None:
        """Close the connection."""
        if self._holding is not None:
            self._holding.close()
        self._connection.close()

    # Chunks: the worker counts those of all maps that a lane has had

    def begin(self, chunk: int, stop: int) -> int:
        """Return the number of a chunk that is to be sent, of items up to an index."""
        number = self._first + chunk
        self._next = number + 1
        self._due[number] = stop
        return number

    def stop(self, chunk: int, stop: int) -> int:
        """Return the number of a chunk that is to end earlier."""
        number = self._first + chunk
        if number in self._due:
            self._due[number] = stop
        return number

    def answered(self, number: int, upto: int) -> None:
        """Note how far a worker has come, which goes through its chunks in order."""
        for earlier in [one for one in self._due if one < number]:
            del self._due[earlier]
        if upto >= self._due.get(number, upto + 1):
            del self._due[number]

    # Frames

    async def greet(self, begun: bytes) -> None:
        """Hear what the worker is, `begun` first; go on past the proxy if it can be reached so."""
        self._buffer += begun
        frame = await self.receive()
        if frame.kind is not Kind.HELLO:
            raise MalformedFrame(f"{frame.kind.name} came first")
        hello: dict[str, Any] = unpack(frame.parts)
        self.python = tuple(hello["python"])
        self.worker = f"{hello['host']}:{hello['pid']}"
        self.id = hello["id"]
        if not self._buffer and (past_the_proxy := take(hello.get("shortcut"))) is not None:
            self._holding, self._connection = self._connection, Connection(past_the_proxy)

    async def held(self) -> None:
        """Return at once where frames go through the proxy; else go on while it holds the worker.

        Raises:
            LaneLost: it does not any more.
        """
        while self._holding is not None:
            await _some(self._holding)

    async def send(self, *frames: Frame) -> None:
        """Write frames whole, one behind the other.

        Raises:
            LaneLost: the worker is gone.
        """
        try:
            async with self._turn_to_send():
                with self._whole():
                    for piece in in_few([piece for one in frames for piece in encode(one)]):
                        await self._connection.send_all(piece)
        except OSError as exc:
            raise LaneLost from exc

    @asynccontextmanager
    async def _turn_to_send(self) -> AsyncIterator[None]:
        # To acquire what is free would have others pack chunks of theirs before this one is sent.
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            yield
        finally:
            self._sending.release()

    async def receive(self) -> Frame:
        """Return the next frame.

        Raises:
            LaneLost: the worker is gone.
            MalformedFrame: it speaks something else.
        """
        head = decode_head(await self._exactly(HEAD.size))
        with self._whole():
            lengths = decode_lengths(await self._exactly(head.parts * LENGTH.size))
            parts = [await self._exactly(length) for length in lengths]
        return Frame(head.kind, head.chunk, head.upto, parts)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Note if a frame is broken off: nobody can go on with the connection then."""
        try:
            yield
        except BaseException:
            self._is_cut = True
            raise

    async def _exactly(self, size: int) -> Bytes:
        while len(self._buffer) < size <= READ_BYTES:
            self._buffer += await _some(self._connection)
        if size <= len(self._buffer):
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data
        return await self._large(size)

    async def _large(self, size: int) -> bytearray:
        """Read a large part to where it stays."""
        data = bytearray(size)
        at = len(self._buffer)
        data[:at] = self._buffer
        self._buffer.clear()
        view = memoryview(data)
        while at < size:
            try:
                read = await self._connection.receive_into(view[at:])
            except OSError as exc:
                raise LaneLost from exc
            if not read:
                raise LaneLost
            at += read
        return data


async def _some(connection: Connection) -> bytes:
    try:
        data = await connection.receive_some()
    except OSError as exc:
        raise LaneLost from exc
    if not data:
        raise LaneLost
    return data


@asynccontextmanager
async def open_lane(proxy: ProxyAddress, service: ServiceName) -> AsyncIterator[Lane]:
    """Lead to a worker: go on with a spare lane, or ask a proxy, which answers when one is there.

    At the end it is closed, or kept for another map if it is spare.

    Raises:
        NoWorkers: no proxy listens there.
        Refused: it gave none.
        LaneLost: the worker that it gave went away.
    """
    where = (proxy, service)
    spare = SPARE_LANES.take(where)
    lane = Lane.of(spare) if spare is not None else await _new_lane(proxy, service)
    try:
        yield lane
    finally:
        left = lane.spare()
        if left is not None:
            SPARE_LANES.keep(where, left)
        else:
            lane.close()


async def _new_lane(proxy: ProxyAddress, service: ServiceName) -> Lane:
    try:
        stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as exc:
        raise NoWorkers(
            f"no proxy answers at {proxy} ({exc}); start one with `myxo up` or "
            "`myxo join`, or name another with MYXO_PROXY"
        ) from exc
    request = (
        f"GET / HTTP/1.1\r\nHost: {service}.myxo.localhost\r\n"
        f"Connection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    )
    connection = Connection(socket(fileno=stream.socket.detach()))
    lane = Lane(connection)
    try:
        await lane.greet(await _upgraded(connection, request))
    except BaseException:
        lane.close()
        raise
    return lane


async def _upgraded(connection: Connection, request: str) -> bytes:
    """Return what came behind the answer."""
    try:
        await connection.send_all(request.encode())
        head, rest = await _answer_head(connection)
        status = int(head.split(b" ", 2)[1])
        if status != 101:  # noqa: PLR2004  (Switching Protocols)
            raise Refused(status, await _text(connection, rest))
    except (OSError, ValueError, IndexError) as exc:
        raise LaneLost from exc
    return rest


async def _answer_head(connection: Connection) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await connection.receive_some()
        if not more or len(data) > MAX_ANSWER_BYTES:
            raise LaneLost
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


async def _text(connection: Connection, begun: bytes) -> str:
    """Return what a refusal says; what comes late is left out."""
    data = begun
    with trio.move_on_after(1.0):
        while not data.endswith(b"\n") and len(data) < MAX_ANSWER_BYTES:
            more = await connection.receive_some()
            if not more:
                break
            data += more
    return data.decode(errors="replace").strip()
