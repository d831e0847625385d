"""A network of three on loopback sockets: a client, a proxy of this package's parts, an upstream.

For tests. Every byte on the wire is real; what an upstream does is a function of its connection.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from overlay.http import (
    BadRequest,
    ClientGone,
    Exchanged,
    HttpError,
    Limits,
    Pool,
    ResponseCut,
    ResponseHead,
    ServerConnection,
    UpstreamFailed,
    end_to_end,
    exchange,
)
from overlay.http.connection import DEFAULT_LIMITS
from overlay.http.head import Field
from overlay.tunnel import SocketEnd, switching

_IDLE_S = 20.0


class Wire:
    """One end of a connection, for reading what came exactly as it came."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self.stream.send_all(data)

    async def until(self, mark: bytes) -> bytes:
        """Return what came up to and with `mark`; EOFError carries the rest if it ends before."""
        while mark not in self.buffer:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError(self.buffer)
            self.buffer += data
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    async def head(self) -> bytes:
        """Return the next head, or whatever ends in an empty line."""
        return await self.until(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        while len(self.buffer) < size:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError(self.buffer)
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def rest(self) -> bytes:
        """Return everything until the end."""
        while data := await self.stream.receive_some():
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    async def ended(self) -> bool:
        """Wait for the end, orderly or not; data before it would be an error."""
        try:
            return not await self.rest()
        except trio.BrokenResourceError:
            return True

    async def aclose(self) -> None:
        """Close this end."""
        await self.stream.aclose()


Upstream = Callable[[Wire], Awaitable[None]]
Edit = Callable[[ResponseHead], list[Field]]


class Lab:
    """Builds the three, and keeps what became of each request."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.outcomes: list[Exchanged | Exception] = []
        self.happened = trio.Condition()
        self.accepted = 0
        self.pools: list[Pool] = []
        self.dialled: list[trio.SocketStream] = []

    async def listen(self, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
        """Serve `handler` on a loopback port and return it."""
        listeners: list[trio.SocketListener] = await self.nursery.start(
            partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        )
        port: int = listeners[0].socket.getsockname()[1]
        return port

    async def dial(self, port: int) -> trio.SocketStream:
        """Connect to a loopback port."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        self.dialled.append(stream)
        return stream

    def close(self) -> None:
        """Close every connection that was dialled and is still open."""
        for stream in self.dialled:
            stream.socket.close()

    async def upstream(self, handler: Upstream) -> int:
        """Serve `handler`, once a connection, and return the port."""

        async def serve(stream: trio.SocketStream) -> None:
            self.accepted += 1
            async with stream:
                await handler(Wire(stream))

        return await self.listen(serve)

    async def client(
        self,
        handler: Upstream,
        *,
        limits: Limits = DEFAULT_LIMITS,
        edit: Edit = end_to_end,
        head_timeout_s: float = float("inf"),
    ) -> Wire:
        """Return a client's connection to a proxy in front of `handler`."""
        upstream = await self.upstream(handler)
        pool = Pool(partial(self.dial, upstream))
        self.pools.append(pool)

        async def serve(stream: trio.SocketStream) -> None:
            client = ServerConnection(stream, limits)
            try:
                await self.serve(client, pool, edit, head_timeout_s)
            finally:
                await client.aclose()

        return Wire(await self.dial(await self.listen(serve)))

    async def serve(
        self, client: ServerConnection, pool: Pool, edit: Edit, head_timeout_s: float
    ) -> None:
        """Do what a proxy does with one client connection, in short."""
        try:
            while (head := await client.read_head()) is not None:
                try:
                    async with pool.acquire() as upstream:
                        done = await exchange(
                            client,
                            head,
                            upstream,
                            request_headers=end_to_end(head),
                            edit_response=edit,
                            head_timeout_s=head_timeout_s,
                            switched=switching(client, upstream, SocketEnd, SocketEnd, _IDLE_S),
                        )
                    await self.note(done)
                except UpstreamFailed as exc:
                    await self.note(exc)
                    await client.respond(504 if exc.timed_out else 502, (), b"upstream\n")
        except BadRequest as exc:
            await self.note(exc)
            await client.refuse(exc)
        except (ClientGone, ResponseCut) as exc:
            await self.note(exc)

    async def note(self, outcome: Exchanged | HttpError) -> None:
        """Keep what became of a request."""
        async with self.happened:
            self.outcomes.append(outcome)
            self.happened.notify_all()

    async def outcome(self, index: int = 0) -> Exchanged | Exception:
        """Wait for what became of request number `index` and return it."""
        async with self.happened:
            while len(self.outcomes) <= index:
                await self.happened.wait()
        return self.outcomes[index]
