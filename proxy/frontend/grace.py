"""The time that a stopping proxy leaves to what is under way, and the order in which it ends.

    stop ──► listeners ──► idle connections ──► requests, within DRAIN_S ──► roads ──► leases

A request that goes straight to an instance is safe there only while the proxy holds its lease on
it: an allocator that sees the leases' connection end takes it that nothing is in flight any more.
So the leases end last. Nothing here waits without a bound, as the daemon's end waits for it.
"""

from collections.abc import Awaitable, Callable

import trio

DRAIN_S = 3.0
"""How long requests under way may take to end when the proxy stops."""

CLOSE_S = 1.0
"""How long the connections that are kept to instances may take to be closed after that."""


class Grace:
    """What outlives the listeners, while `run` runs.

    Attributes:
        listeners: runs what accepts connections.
        lasting: runs what requests need to their end: leases, and starts that they wait for.
        connections: runs the client connections.
        stopping: set when the proxy is to end and nothing accepts any more.
        idle: ends the wait of each connection on which no request is under way.
        close: closes the roads when the last request has ended.
    """

    listeners: trio.Nursery
    lasting: trio.Nursery
    connections: trio.Nursery

    def __init__(self) -> None:
        self.stopping = trio.Event()
        self.idle: set[trio.CancelScope] = set()
        self.close: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold it all until cancelled, and then until all has ended in its order."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            with trio.CancelScope(shield=True):
                await self._hold(task_status)

    async def _listen(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            async with trio.open_nursery() as self.listeners:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.stopping.set()

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self.lasting:
            async with trio.open_nursery() as self.connections:
                task_status.started()
                await self.stopping.wait()
                self.connections.cancel_scope.deadline = trio.current_time() + DRAIN_S
                for scope in self.idle:
                    scope.cancel()
            with trio.move_on_after(CLOSE_S):
                await self.close()
            self.lasting.cancel_scope.cancel()
