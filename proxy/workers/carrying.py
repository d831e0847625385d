"""A connection carried by the overlay, in a worker: the daemon passes its bytes on, unread.

The bytes are those of a stream of the overlay, whose messages say themselves where they end: that
the daemon, or its stream, is lost cannot be taken for an end in good order.
"""

import select

import structlog
import trio

from overlay.errors import StreamCut
from overlay.framing import ByteStream

CHUNK = 64 * 1024
IDLE_S = 3600.0
"""A carried connection on which nothing moves for so long is dropped, whoever forgot it."""

LET_GO_S = 1.0

log = structlog.get_logger()


class LentBytes:
    """A stream of the overlay that the daemon holds, as its bytes come through a Unix socket."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._stream = trio.SocketStream(sock)
        self._lost = False

    @property
    def is_outdated(self) -> bool:
        """Whether there is a better way to the peer; the daemon alone would know."""
        return False

    @property
    def is_quiet(self) -> bool:
        """Whether it stands and nothing waits to be read."""
        return not self._lost and self._socket.fileno() >= 0 and not self._readable()

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be lost."""
        return self._lost

    async def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes, or none at the end."""
        try:
            return bytes(await self._stream.receive_some(n))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._lost = True
            raise StreamCut("the process that holds the stream let go of it") from exc

    async def write(self, data: bytes) -> None:
        """Return once `data` is on its way."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._lost = True
            raise StreamCut("the process that holds the stream let go of it") from exc

    async def close(self) -> None:
        """Close both directions."""
        await self._stream.aclose()

    async def reset(self) -> None:
        """Give up both directions."""
        self._lost = True
        await trio.aclose_forcefully(self._stream)

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))


async def pass_on(held: ByteStream, worker: trio.SocketStream) -> None:
    """Pass bytes between a stream of the overlay and a worker's socket until either ends."""

    async def out() -> None:
        async for data in worker:
            await held.write(bytes(data))
            idle.deadline = trio.current_time() + IDLE_S
        nursery.cancel_scope.cancel()

    async def back() -> None:
        while data := await held.read(CHUNK):
            await worker.send_all(data)
            idle.deadline = trio.current_time() + IDLE_S
        nursery.cancel_scope.cancel()

    orderly = False
    try:
        with trio.move_on_after(IDLE_S) as idle:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(out)
                nursery.start_soon(back)
            orderly = True
    except* (StreamCut, trio.BrokenResourceError, trio.ClosedResourceError) as group:
        log.debug("carried.cut", reason=str(group.exceptions[0]))
    finally:
        with trio.move_on_after(LET_GO_S, shield=True):
            await (held.close() if orderly else held.reset())
        await trio.aclose_forcefully(worker)
