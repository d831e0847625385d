"""Timeouts that cost next to nothing as long as they do not happen.

A `trio.CancelScope` with a deadline costs 6 µs, which twice a request is a quarter of what a small
proxied request costs. Here a wait only notes its deadline. One system task a run sleeps until the
earliest alarm; an alarm that rings before the deadline, because the wait it was set for ended and
another began, is set anew. So a busy connection sets one alarm in a whole timeout's length.

What rings is `trio.lowlevel.notify_closing`, which wakes who waits for a file descriptor without
closing it; the woken one looks at its deadline to know why.
"""

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

import trio


class Waiting(Protocol):
    """Something that may wait.

    Attributes:
        fd: that it waits for.
        deadline: by trio's clock; `inf` while it does not wait.
        alarm_at: when the next alarm will ring for it; `inf` for none.
    """

    fd: int
    deadline: float
    alarm_at: float


class Alarms:
    """The alarms of one trio run.

    Attributes:
        now: returns what `trio.current_time` does, in a third of the time.
    """

    __slots__ = ("_heap", "_order", "_woken", "now")

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time
        self._heap: list[tuple[float, int, Waiting]] = []
        self._order = count()
        self._woken = trio.Event()

    def set(self, waiting: Waiting) -> None:
        """Let an alarm ring at the deadline of `waiting`, if none will ring before it."""
        if waiting.deadline >= waiting.alarm_at:
            return
        waiting.alarm_at = waiting.deadline
        heappush(self._heap, (waiting.alarm_at, next(self._order), waiting))
        if self._heap[0][2] is waiting:
            self._woken.set()

    async def run(self) -> None:
        """Ring, until cancelled at the end of the trio run."""
        while True:
            self._woken = trio.Event()
            with trio.move_on_at(self._heap[0][0] if self._heap else inf):
                await self._woken.wait()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                at, _, waiting = heappop(self._heap)
                self._ring(waiting, at, now)

    def _ring(self, waiting: Waiting, at: float, now: float) -> None:
        if at != waiting.alarm_at:
            return  # an earlier one took its place
        waiting.alarm_at = inf
        if waiting.deadline == inf or waiting.fd < 0:
            return
        if waiting.deadline <= now:
            trio.lowlevel.notify_closing(waiting.fd)
        else:
            self.set(waiting)


_ALARMS: trio.lowlevel.RunVar[Alarms] = trio.lowlevel.RunVar("overlay.http.alarms")


def alarms() -> Alarms:
    """Return the alarms of this trio run."""
    try:
        return _ALARMS.get()
    except LookupError:
        made = Alarms()
        _ALARMS.set(made)
        trio.lowlevel.spawn_system_task(made.run, name="overlay.http.alarms")
        return made
