"""Threads with a loop: one task at a time in each, and kept for the next."""

import os
import queue
import threading
from collections.abc import Callable

import pytest
import trio

from myxo.mapping.loops import Loops, LoopThread, Settled

TIMEOUT_S = 60.0


class Tasks:
    """Begins tasks and hears of their ends.

    Attributes:
        threads: in which each task ran.
    """

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._ends: queue.Queue[BaseException | None] = queue.Queue()
        self.threads: list[threading.Thread] = []

    def begin(self, work: Callable[[], object] = lambda: None) -> LoopThread:
        async def task(_settled: Settled) -> None:
            await trio.lowlevel.checkpoint()
            self.threads.append(threading.current_thread())
            work()

        return self._loops.begin(task, self._ends.put)

    def end(self) -> BaseException | None:
        return self._ends.get(timeout=TIMEOUT_S)


def test_the_next_task_runs_in_the_thread_of_the_one_before() -> None:
    tasks = Tasks(Loops(TIMEOUT_S))
    for _ in range(100):
        tasks.begin()
        assert tasks.end() is None
    assert len(set(tasks.threads)) == 1


def test_tasks_at_once_each_have_a_thread() -> None:
    tasks = Tasks(Loops(TIMEOUT_S))
    together = threading.Barrier(3, timeout=TIMEOUT_S)
    for _ in range(3):
        tasks.begin(together.wait)
    assert [tasks.end() for _ in range(3)] == [None] * 3
    assert len(set(tasks.threads)) == 3


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_task_raises_is_told_and_harms_no_other(error: BaseException) -> None:
    def fail() -> None:
        raise error

    tasks = Tasks(Loops(TIMEOUT_S))
    tasks.begin(fail)
    assert tasks.end() is error
    tasks.begin()
    assert tasks.end() is None


def test_a_thread_without_tasks_ends_and_others_come_after_it() -> None:
    tasks = Tasks(Loops(0.01))
    for _ in range(3):
        tasks.begin()
        assert tasks.end() is None
        tasks.threads[-1].join(TIMEOUT_S)
        assert not tasks.threads[-1].is_alive()
    assert len(set(tasks.threads)) == 3


def test_a_task_that_comes_as_its_thread_is_to_end_is_run() -> None:
    tasks = Tasks(Loops(0.0))
    for _ in range(500):
        tasks.begin()
        assert tasks.end() is None


def test_a_child_does_not_count_on_its_parents_threads() -> None:
    loops = Loops(TIMEOUT_S)
    tasks = Tasks(loops)
    tasks.begin()
    assert tasks.end() is None
    child = os.fork()
    if not child:
        loops.after_fork()
        tasks.begin()
        os._exit(tasks.end() is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_next_task_waits_until_the_one_before_has_cleared_up_and_nobody_else_does() -> None:
    loops, order = Loops(TIMEOUT_S), []
    ends: queue.Queue[BaseException | None] = queue.Queue()
    may_end = threading.Event()

    async def first(settled: Settled) -> None:
        settled()
        await trio.to_thread.run_sync(may_end.wait, TIMEOUT_S)
        order.append("first")
        raise OSError("while it cleared up")

    async def second(_settled: Settled) -> None:
        order.append("second")

    loop = loops.begin(first, ends.put)
    assert ends.get(timeout=TIMEOUT_S) is None
    assert loops.begin(second, ends.put) is loop
    may_end.set()
    assert ends.get(timeout=TIMEOUT_S) is None
    assert order == ["first", "second"]
    assert ends.empty(), "each is told of once"


def fail() -> None:
    raise ValueError("no")


async def forever(_settled: Settled) -> None:
    await trio.sleep_forever()


async def nothing(_settled: Settled) -> None:
    return


def test_a_loop_that_breaks_tells_of_it_and_others_come_after_it() -> None:
    loops = Loops(TIMEOUT_S)
    ends: queue.Queue[BaseException | None] = queue.Queue()
    loops.begin(forever, ends.put).call_soon(fail)
    assert isinstance(ends.get(timeout=TIMEOUT_S), trio.TrioInternalError)
    tasks = Tasks(loops)
    tasks.begin()
    assert tasks.end() is None


def test_a_loop_that_breaks_while_it_waits_for_a_task_is_given_none() -> None:
    loops = Loops(TIMEOUT_S)
    tasks = Tasks(loops)
    loop = tasks.begin()
    assert tasks.end() is None
    (thread,) = tasks.threads
    loop.call_soon(fail)
    thread.join(TIMEOUT_S)
    tasks.begin()
    assert tasks.end() is None
    assert tasks.threads[1] is not thread
    ends: queue.Queue[BaseException | None] = queue.Queue()
    loop.begin(nothing, ends.put)  # by who took it before it broke
    assert isinstance(ends.get(timeout=TIMEOUT_S), trio.RunFinishedError)


async def _call(loops: Loops) -> list[str]:
    order: list[str] = []
    called, over = threading.Event(), threading.Event()
    go = trio.Event()

    async def wait(_settled: Settled) -> None:
        await go.wait()

    loop = loops.begin(wait, lambda _: over.set())

    def call() -> None:
        order.append(threading.current_thread().name)
        go.set()
        called.set()

    loop.call_soon(call)
    assert await trio.to_thread.run_sync(called.wait, TIMEOUT_S)
    assert await trio.to_thread.run_sync(over.wait, TIMEOUT_S)
    return order


async def test_calls_are_made_in_the_thread_of_the_loop() -> None:
    loops = Loops(TIMEOUT_S)
    assert await _call(loops) == await _call(loops) == ["myxo.map"]
