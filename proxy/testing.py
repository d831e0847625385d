"""Peers of a proxy, played by hand for its tests.

An allocator's end of use-leases over a real Unix socket, and a counter of global rate limits.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from overlay.control import ControlConnection, serve_control
from overlay.leases import (
    FROM_PROXY,
    Acquire,
    FromAllocator,
    FromProxy,
    Granted,
    Refused,
    Welcome,
)
from overlay.names import InstanceId, ServiceName
from overlay.quota import Quota
from overlay.rates import Bucket
from overlay.spec import RateLimit


class PlayedAllocator:
    """Grants leases on the instances in `addresses`, and keeps what the proxy said.

    Attributes:
        path: its control socket.
        addresses: what is granted, and where; everything else is refused.
        answers: whether it answers at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.addresses: dict[InstanceId, str] = {}
        self.answers = True
        self._connection: ControlConnection | None = None
        self._said, self._heard = trio.open_memory_channel[FromProxy](1000)

    async def heard(self) -> FromProxy:
        """Return the next message from the proxy, in order."""
        return await self._heard.receive()

    async def say(self, *messages: FromAllocator) -> None:
        """Send messages to the proxy that connected last."""
        if self._connection is None:
            raise RuntimeError("no proxy is connected")
        await self._connection.send(*messages)

    async def hang_up(self) -> None:
        """Close the connection, as the allocator's end would."""
        if self._connection is not None:
            await self._connection.aclose()

    async def serve(self, connection: ControlConnection) -> None:
        """Be the `lease` want of a control socket."""
        self._connection = connection
        while (line := await connection.receive()) is not None:
            message = FROM_PROXY.validate_json(line)
            await self._said.send(message)
            if self.answers:
                await self._answer(connection, message)

    async def _answer(self, connection: ControlConnection, message: FromProxy) -> None:
        match message:
            case Acquire(instance=instance) if instance in self.addresses:
                granted = Granted(instance=instance, address=self.addresses[instance])
                await connection.send(granted)
            case Acquire(instance=instance):
                await connection.send(Refused(instance=instance, reason="it is gone"))
            case _ if message.kind == "hello":
                await connection.send(Welcome())


@asynccontextmanager
async def played_allocator(path: Path) -> AsyncIterator[PlayedAllocator]:
    """Serve a played allocator's socket at `path` for the length of the block."""
    allocator = PlayedAllocator(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, dict, {"lease": allocator.serve})
        yield allocator
        nursery.cancel_scope.cancel()


class PlayedCounter:
    """Counts one service's requests, as an allocator does for all proxies.

    Attributes:
        limit: of all requests together.
        answers: whether it answers at all.
        asked: how many calls came.
    """

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.answers = True
        self.asked = 0
        self._bucket = Bucket()

    async def ask(self, _: ServiceName, wanted: int) -> Quota | None:
        """Grant a share, or say how long to wait for one."""
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if not self.answers:
            return None
        now = trio.current_time()
        granted = self._bucket.take_up_to(wanted, self.limit, now)
        wait_s = 0.0 if granted else self._bucket.wait_s(self.limit, now)
        return Quota(granted=granted, wait_s=wait_s)
