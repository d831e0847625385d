"""Starts take turns: the shell around `queue.py` that makes them wait and tells them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from allocator.errors import Refused
from allocator.rules.queue import StartQueue, Ticket
from overlay.allocation import AllocationRefusal
from overlay.names import InstanceId, PeerId

PARALLEL_STARTS_PER_CORE = 2
"""On two cores 24 starts took 14 s one by one, 9 s by two, 6 to 11 s by four or eight, 9 to 10 s by
sixteen, and each of them 0.6, 0.7, 0.9 to 1.9, 1.9 to 3.5 and 5.7 to 6.8 s."""

MAX_WAIT_S = 30.0
"""Another machine, or another try, is better than waiting longer."""


UNWANTED = "nobody waits for this start any more"


@dataclass(slots=True)
class _Wait:
    called: trio.Event = field(default_factory=trio.Event)
    refused: str = ""

    def call(self, refused: str = "") -> None:
        self.refused = refused
        self.called.set()


class Turns:
    """Lets so many starts go at once, and the others fairly in turn.

    Args:
        slots: how many at once.
    """

    def __init__(self, slots: int) -> None:
        self._queue = StartQueue(slots)
        self._waits: dict[Ticket, _Wait] = {}
        self._tickets: dict[InstanceId, Ticket] = {}

    @asynccontextmanager
    async def turn(
        self,
        instance: InstanceId,
        owner: PeerId,
        caller: PeerId | None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> AsyncIterator[None]:
        """Wait for the turn of a start; the block is it.

        Args:
            instance: that is to be started.
            owner: whose service it is.
            caller: the peer that asked.
            wanted: returns whether somebody waits for the start; who stops to says so with
                `withdraw`, but may have stopped while the start did not wait here.

        Raises:
            Refused: too many wait, it waited too long, or nobody waits for it any more.
        """
        if not wanted():
            raise _refused(UNWANTED)
        ticket = Ticket(owner, caller)
        wait = self._waits[ticket] = _Wait()
        self._tickets[instance] = ticket
        try:
            displaced = self._queue.join(ticket)
            if displaced is not None:
                self._waits[displaced].call(self._too_many())
            self._go_on()
            with trio.move_on_after(MAX_WAIT_S):
                await wait.called.wait()
            if not wait.called.is_set():
                wait.refused = f"{MAX_WAIT_S:g} s were not enough for its turn among other starts"
            if wait.refused:
                raise _refused(wait.refused)
            yield
        finally:
            self._queue.leave(ticket)
            del self._waits[ticket]
            if self._tickets.get(instance) is ticket:
                del self._tickets[instance]
            self._go_on()

    def withdraw(self, instance: InstanceId) -> None:
        """Let a start that still waits for its turn be refused: nobody wants it any more."""
        ticket = self._tickets.get(instance)
        if ticket is not None and not self._waits[ticket].called.is_set():
            self._queue.leave(ticket)
            self._waits[ticket].call(UNWANTED)

    @property
    def waiting(self) -> int:
        """How many starts wait for their turn."""
        return self._queue.waiting

    def _go_on(self) -> None:
        while (ticket := self._queue.next()) is not None:
            self._waits[ticket].call()

    def _too_many(self) -> str:
        return f"{self._queue.most} starts wait here already, which is the most"


def _refused(why: str) -> Refused:
    return Refused(AllocationRefusal.BUSY, f"{why}; try again in a moment")
