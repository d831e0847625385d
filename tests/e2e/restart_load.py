"""Clients that never let go of a proxy, and note everything that goes wrong with it."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass
class Load:
    """What came of a load on one service.

    Attributes:
        answer_s: how long an answer may take.
        failed: what went wrong, in words.
        counts: requests by what they were.
        over: set when clients are to end.
    """

    port: int
    service: str
    answer_s: float = 60.0
    failed: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    over: bool = False

    async def keep_asking(self, period_s: float) -> None:
        """Send a GET every `period_s` seconds over one connection, for as long as it is kept.

        It is opened anew only after an answer that said that it ends.
        """
        at = trio.current_time()
        while not self.over:
            async with await self._connect() as stream:
                self.counts["connections"] += 1
                while not self.over:
                    at = max(at + period_s, trio.current_time())
                    await trio.sleep_until(at)
                    head, _ = await self._ask(stream, "/", "kept")
                    if b"connection: close" in head.lower():
                        self.counts["closed"] += 1
                        break

    async def ask_anew(self, period_s: float) -> None:
        """Send a GET every `period_s` seconds, each over a connection of its own."""
        at = trio.current_time()
        while not self.over:
            at = max(at + period_s, trio.current_time())
            await trio.sleep_until(at)
            async with await self._connect() as stream:
                await self._ask(stream, "/", "fresh")

    async def download(self, lines: int) -> None:
        """Have an answer that takes a tenth of a second for each line."""
        async with await self._connect() as stream:
            _, body = await self._ask(stream, f"/drip?{lines}", "downloads")
        wanted = b"".join(b"%d\n" % n for n in range(lines))
        if _decoded(body) != wanted:
            self.failed.append(f"a download of {len(wanted)} bytes has {len(_decoded(body))}")

    async def talk(self) -> None:
        """Hold a WebSocket, on which each word is answered by itself."""
        async with await self._connect() as stream:
            fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            await stream.send_all(self._head("/", fields))
            answer = await stream.receive_some(4096)
            if b" 101 " not in answer:
                self.failed.append(f"no WebSocket: {answer[:200]!r}")
                return
            while not self.over:
                await stream.send_all(b"word")
                if await stream.receive_some(4096) != b"word":
                    self.failed.append("the WebSocket was cut")
                    return
                self.counts["words"] += 1
                await trio.sleep(0.05)

    async def _connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def _head(self, path: str, fields: str = "") -> bytes:
        host = f"Host: 127.0.0.1:{self.port}"
        return f"GET /{self.service}{path} HTTP/1.1\r\n{host}\r\n{fields}\r\n".encode()

    async def _ask(self, stream: trio.SocketStream, path: str, kind: str) -> tuple[bytes, bytes]:
        """Return the head and the body of an answer."""
        self.counts[kind] += 1
        data = b""
        try:
            with trio.fail_after(self.answer_s):
                await stream.send_all(self._head(path))
                while not _is_whole(data) and (part := await stream.receive_some()):
                    data += part
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            self.failed.append(f"{kind}: {exc!r} after {data[:200]!r}")
            return b"connection: close", b""
        if not (_is_whole(data) and data.startswith(b"HTTP/1.1 200 ")):
            self.failed.append(f"{kind}: {data[:300]!r}")
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


def _is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def _decoded(body: bytes) -> bytes:
    return b"".join(_chunks(body))


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        yield rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]


@asynccontextmanager
async def under_load(load: Load) -> AsyncIterator[Load]:
    """Ask 500 times a second, 450 of them over ten kept connections, while the block runs."""
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(load.keep_asking, 10 / 450)
        nursery.start_soon(load.ask_anew, 1 / 50)
        nursery.start_soon(load.talk)
        try:
            yield load
        finally:
            load.over = True
