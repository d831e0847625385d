"""The time that a stopping proxy leaves to what is under way, and the order in which it ends.

    stop ──► listeners ──► idle connections ──► requests, within `drain_s` ──► roads ──► leases

One that was replaced ends in the same order and has longer for it, until it is told to stop, too.

A request that goes straight to an instance is safe there only while the proxy holds its lease on
it: an allocator that sees the leases' connection end takes it that nothing is in flight any more.
So the leases end last. Nothing here waits without a bound, as the daemon's end waits for it.
"""

from collections.abc import Awaitable, Callable

import trio

DRAIN_S = 3.0
"""How long requests under way may take to end when the proxy stops, if nobody says otherwise."""

CLOSE_S = 1.0
"""How long the connections that are kept to instances may take to be closed after that."""


class Grace:
    """What outlives the listeners, while `run` runs.

    Args:
        drain_s: seconds that requests under way may take to end when the proxy stops.

    Attributes:
        drain_s: as it was given.
        listeners: runs what accepts connections.
        lasting: runs what requests need to their end: leases, and starts that they wait for.
        connections: runs the client connections.
        leaving: nothing may begin to accept any more; the listeners may be closing still.
        stopping: set when the proxy is to end and nothing accepts any more.
        idle: ends the wait of each connection on which no request is under way.
        close: closes the roads when the last request has ended.
        ended: set when all has ended.
        retired_s: what `retire` was called with.
    """

    listeners: trio.Nursery
    lasting: trio.Nursery
    connections: trio.Nursery

    def __init__(self, drain_s: float = DRAIN_S) -> None:
        self.drain_s = drain_s
        self.leaving = False
        self.stopping = trio.Event()
        self.idle: set[trio.CancelScope] = set()
        self.close: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.ended = trio.Event()
        self._draining = trio.CancelScope()
        self.retired_s = 0.0

    def retire(self, within_s: float) -> None:
        """Accept no more, and end when what is under way has ended, or after `within_s` seconds."""
        self.retired_s = within_s
        self.listeners.cancel_scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold it all until cancelled or retired, and then until all has ended in its order."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            with trio.CancelScope(shield=True):
                await self._hold(task_status)
            nursery.cancel_scope.cancel()
        self.ended.set()

    async def _listen(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            async with trio.open_nursery() as self.listeners:
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self.leaving = True  # before the nursery takes no more, which is a bug to ask
            self._end_within(self.retired_s)
            await trio.sleep_forever()
        finally:
            self._end_within(self.drain_s)

    def _end_within(self, seconds: float) -> None:
        draining = self._draining
        draining.deadline = min(draining.deadline, trio.current_time() + seconds)
        self.stopping.set()
        for idle in self.idle:
            idle.cancel()

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self.lasting:
            with self._draining:
                async with trio.open_nursery() as self.connections:
                    task_status.started()
                    await self.stopping.wait()
            with trio.move_on_after(CLOSE_S):
                await self.close()
            self.lasting.cancel_scope.cancel()
