"""Fetches of images take turns: the shell around `lanes.py`, and a bound on each one's time.

Who waits wakes up when a fetch has become a long one; no task of its own watches the lanes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from allocator.errors import ImageMissing, Refused
from allocator.images.lanes import Lanes
from allocator.images.plan import most_s
from allocator.rules.queue import Ticket
from overlay.allocation import AllocationRefusal
from overlay.names import PeerId


@dataclass(slots=True)
class _Turn:
    called: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: str = ""

    def end(self, why: str) -> None:
        self.ended = why
        self.called.set()
        self.scope.cancel()


class FetchTurns:
    """Lets so many fetches go at once, and the others in turn."""

    def __init__(self) -> None:
        self._lanes = Lanes()
        self._turns: dict[Ticket, _Turn] = {}

    @asynccontextmanager
    async def turn(self, owner: PeerId, size_bytes: int) -> AsyncIterator[None]:
        """Wait for the turn of a fetch; the block is it, and is bounded by the image's size.

        Raises:
            Refused: others have to go before it, or it has to give way.
            ImageMissing: it takes longer than an image of this size may.
        """
        ticket = Ticket(owner)
        turn = self._turns[ticket] = _Turn()
        try:
            displaced = self._lanes.join(ticket)
            if displaced is not None:
                self._turns[displaced].end("too many images are waited for")
            await self._called(turn)
            turn.scope.deadline = trio.current_time() + most_s(size_bytes)
            with turn.scope:
                yield
            if turn.scope.cancelled_caught:
                _give_up(turn, size_bytes)
        finally:
            del self._turns[ticket]
            self._lanes.leave(ticket)
            self._go_on()

    async def _called(self, turn: _Turn) -> None:
        self._go_on()
        while not turn.called.is_set():
            with trio.move_on_after(self._lanes.wait_s(trio.current_time())):
                await turn.called.wait()
            self._go_on()
        if turn.ended:
            raise Refused(AllocationRefusal.BUSY, f"{turn.ended}; try again in a moment")

    def _go_on(self) -> None:
        for ticket in self._lanes.go_on(trio.current_time()):
            self._turns[ticket].called.set()
        for ticket in self._lanes.surplus():
            self._turns[ticket].end("its image comes slowly and others are waited for")


def _give_up(turn: _Turn, size_bytes: int) -> None:
    if turn.ended:
        raise Refused(AllocationRefusal.BUSY, f"{turn.ended}; what came is kept for the next try")
    raise ImageMissing(f"it did not come within {most_s(size_bytes):.0f} s")
