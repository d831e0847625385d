"""Threads with an event loop, each for one task at a time, and kept for the next one for a moment.

A map runs in a thread of its own. To start that with its loop takes about as long as ten thousand
small items do, and programs mostly call one map after the other.
"""

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from myxo.mapping.spare_lanes import KEEP_S

Settled = Callable[[], None]
Task = Callable[[Settled], Awaitable[None]]
"""It may say that all is done before it has cleared up: nobody has to wait for that."""

Ended = Callable[[BaseException | None], None]


class LoopThread:
    """A thread with a loop of its own; it ends when it has had no task for a while.

    Args:
        loops: to which it belongs.
        keep_s: seconds that it waits for a task.
    """

    def __init__(self, loops: "Loops", keep_s: float) -> None:
        self._loops = loops
        self._keep_s = keep_s
        self._coming: tuple[Task, Ended] | None = None
        self._ended: Ended | None = None
        self._comes = trio.Event()
        self._stands = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        threading.Thread(target=self._main, name="myxo.map", daemon=True).start()

    def begin(self, task: Task, ended: Ended) -> None:
        """Run a task, once the one before has cleared up; from another thread, when that has ended.

        Args:
            task: what is run.
            ended: called in this thread when it has settled or ended, with what it raised.
        """
        self._coming = (task, ended)
        if self._token is not None:  # else it looks before it waits
            try:
                self._token.run_sync_soon(self._wake)
            except trio.RunFinishedError as exc:  # it has broken in this moment
                ended(exc)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have something called in this thread; from another one."""
        self._stands.wait()
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call)

    def _wake(self) -> None:
        self._comes.set()

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:  # noqa: BLE001  (whoever waits for a task hears of it)
            self._loops.let_end(self)
            for ended in filter(None, (self._ended, self._coming and self._coming[1])):
                ended(exc)
        finally:
            self._stands.set()

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stands.set()
        while True:
            if self._coming is not None:
                await self._run(*self._coming)
            with trio.move_on_after(self._keep_s) as waiting:
                await self._comes.wait()
            self._comes = trio.Event()
            if waiting.cancelled_caught and self._loops.let_end(self):
                return

    async def _run(self, task: Task, ended: Ended) -> None:
        self._coming, self._ended = None, ended
        try:
            await task(self._settled)
        except trio.Cancelled:
            raise  # by nobody but a loop that breaks, which `_main` tells of
        except BaseException as exc:  # noqa: BLE001  (it is raised where the caller waits)
            self._tell(exc)
        self._tell(None)

    def _settled(self) -> None:
        self._tell(None)

    def _tell(self, error: BaseException | None) -> None:
        """Tell how the task has ended, once; another one may come then."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self._loops.keep(self)
            ended(error)


class Loops:
    """The loops of a process, from whichever thread.

    Args:
        keep_s: seconds that each is kept.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._spare: list[LoopThread] = []

    def begin(self, task: Task, ended: Ended) -> LoopThread:
        """Run a task in a loop in which nothing else runs; return that.

        Args:
            task: what is run.
            ended: called in the loop's thread when it has settled or ended, with what it raised.
        """
        with self._lock:
            loop = self._spare.pop() if self._spare else None
        if loop is None:
            loop = LoopThread(self, self._keep_s)
        loop.begin(task, ended)
        return loop

    def keep(self, loop: LoopThread) -> None:
        """Have a loop take the next task, if one comes in time."""
        with self._lock:
            self._spare.append(loop)

    def let_end(self, loop: LoopThread) -> bool:
        """Take a loop out; return False where it was taken for a task that is on its way."""
        with self._lock:
            if loop not in self._spare:
                return False
            self._spare.remove(loop)
            return True

    def after_fork(self) -> None:
        """In a child: its parent's threads are not there."""
        self._lock, self._spare = threading.Lock(), []


LOOPS = Loops()
"""This program's."""

os.register_at_fork(after_in_child=LOOPS.after_fork)
