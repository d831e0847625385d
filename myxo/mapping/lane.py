"""The caller's end of a lane: a connection to whichever worker the proxy chooses or starts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

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
from myxo.services.proxy_address import ProxyAddress
from overlay.names import ServiceName

READ_BYTES = 1 << 16
MAX_ANSWER_BYTES = 1 << 16


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
    """

    def __init__(self, stream: trio.SocketStream, rest: bytes) -> None:
        self._stream = stream
        self._buffer = bytearray(rest)
        self._sending = trio.Lock()
        self.worker = self.id = ""
        self.python: tuple[int, ...] = ()

    async def greet(self) -> None:
        """Hear what the worker is."""
        frame = await self.receive()
        if frame.kind is not Kind.HELLO:
            raise MalformedFrame(f"{frame.kind.name} came first")
        hello: dict[str, Any] = unpack(frame.parts)
        self.python = tuple(hello["python"])
        self.worker = f"{hello['host']}:{hello['pid']}"
        self.id = hello["id"]

    async def send(self, frame: Frame) -> None:
        """Write a frame whole.

        Raises:
            LaneLost: the worker is gone.
        """
        try:
            async with self._sending:
                for piece in in_few(encode(frame)):
                    await self._stream.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise LaneLost from exc

    async def receive(self) -> Frame:
        """Return the next frame.

        Raises:
            LaneLost: the worker is gone.
            MalformedFrame: it speaks something else.
        """
        head = decode_head(await self._exactly(HEAD.size))
        lengths = decode_lengths(await self._exactly(head.parts * LENGTH.size))
        parts = [await self._exactly(length) for length in lengths]
        return Frame(head.kind, head.chunk, head.upto, parts)

    async def _exactly(self, size: int) -> Bytes:
        while len(self._buffer) < size <= READ_BYTES:
            self._buffer += await self._read_some()
        if size <= len(self._buffer):
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data
        return await self._large(size)

    async def _read_some(self) -> bytes:
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise LaneLost from exc
        if not data:
            raise LaneLost
        return bytes(data)

    async def _large(self, size: int) -> bytearray:
        """Read a large part to where it stays."""
        data = bytearray(size)
        at = len(self._buffer)
        data[:at] = self._buffer
        self._buffer.clear()
        view = memoryview(data)
        while at < size:
            try:
                read = await self._stream.socket.recv_into(view[at:])
            except OSError as exc:
                raise LaneLost from exc
            if not read:
                raise LaneLost
            at += read
        return data


@asynccontextmanager
async def open_lane(proxy: ProxyAddress, service: ServiceName) -> AsyncIterator[Lane]:
    """Ask a proxy for a worker; it answers when one is there.

    Raises:
        NoWorkers: no proxy listens there.
        Refused: it gave none.
        LaneLost: the worker that it gave went away.
    """
    try:
        stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as exc:
        raise NoWorkers(
            f"no proxy answers at {proxy} ({exc}); start one with `myxo up` or "
            "`myxo join`, or name another with MYXO_PROXY"
        ) from exc
    async with stream:
        request = (
            f"GET / HTTP/1.1\r\nHost: {service}.myxo.localhost\r\n"
            f"Connection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
        )
        try:
            await stream.send_all(request.encode())
            head, rest = await _answer_head(stream)
            status = int(head.split(b" ", 2)[1])
            if status != 101:  # noqa: PLR2004  (Switching Protocols)
                raise Refused(status, await _text(stream, rest))
        except (trio.BrokenResourceError, ValueError, IndexError) as exc:
            raise LaneLost from exc
        lane = Lane(stream, rest)
        await lane.greet()
        yield lane


async def _answer_head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(READ_BYTES)
        if not more or len(data) > MAX_ANSWER_BYTES:
            raise LaneLost
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


async def _text(stream: trio.SocketStream, begun: bytes) -> str:
    """Return what a refusal says; what comes late is left out."""
    data = begun
    with trio.move_on_after(1.0):
        while not data.endswith(b"\n") and len(data) < MAX_ANSWER_BYTES:
            more = await stream.receive_some(READ_BYTES)
            if not more:
                break
            data += more
    return data.decode(errors="replace").strip()
