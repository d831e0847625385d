"""A map's own thread, so that callers of every kind of concurrency have the same map."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import trio

from myxo.mapping.items import Items, WindowItems
from myxo.mapping.loops import LOOPS, LoopThread, Settled
from myxo.mapping.mailbox import Mailbox
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.settings import MapSettings

JOIN_S = 0.005
"""That an ended map leaves to its caller before it clears up: both need the interpreter."""


class Supply(Protocol):
    """Where a map takes its indices from."""

    def offer(self, items: int) -> None:
        """Add the input's next `items`."""

    def close(self) -> None:
        """Note that the input has ended."""


class Run(Protocol):
    """A map, whatever is done with its items."""

    async def run(self, settled: Settled) -> None:
        """Call `settled` when each item has its outcome. Raises with what the map cannot go on."""

    def taken(self, outcomes: int) -> None:
        """Note that the caller has taken so many outcomes."""

    def look_again(self) -> None:
        """Note that the supply has changed."""


class Work(Protocol):
    """What is done with each item."""

    def begin(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> tuple[Supply, Run]:
        """Return a map that has not begun, and where its indices are offered.

        Args:
            items: by index.
            deliver: takes outcomes, each index once.
            settings: of the map.
            read_more: asks for so many items more of an input that is not whole; None where all
                are there.
        """


class Engine:
    """Runs a map in a thread that only it has, from `start` to the mailbox's end.

    Args:
        work: what is done with each item.
        items: those of a window are added by `give`.
        mailbox: takes outcomes.
        settings: of the map.
    """

    def __init__(self, work: Work, items: Items, mailbox: Mailbox, settings: MapSettings) -> None:
        self._items = items
        self._mailbox = mailbox
        self._bounded = settings.untaken is not None
        read_more = mailbox.want if items.count is None else None
        self._supply, self._run = work.begin(items, mailbox.put, settings, read_more)
        if items.count is not None:
            self._supply.offer(items.count)
            self._supply.close()
        self._scope = trio.CancelScope()
        self._ended = False
        self._over, self._joined = threading.Event(), threading.Event()
        self._loop: LoopThread | None = None

    def start(self) -> None:
        """Begin; `give`, `took` and `cancel` may be called then."""
        self._loop = LOOPS.begin(self._within, self._end)

    def give(self, items: list[Any], *, ended: bool) -> None:
        """Hand over more of the input; from any thread."""

        def take() -> None:
            if isinstance(self._items, WindowItems):
                self._supply.offer(self._items.add(items))
            if ended:
                self._supply.close()
            self._run.look_again()

        self._soon(take)

    def took(self, items: int) -> None:
        """Note that the caller has taken so many outcomes, if it matters how many it has not."""
        if self._bounded:
            self._soon(lambda: self._run.taken(items))

    def cancel(self) -> None:
        """Have the map end: its workers stop what they compute for it."""
        self._soon(self._scope.cancel)

    def join(self) -> None:
        """Wait until the map has settled or ended, which is near once it was cancelled."""
        self._over.wait()
        self._joined.set()

    def _soon(self, call: Callable[[], None]) -> None:
        if self._loop is not None and not self._ended:
            self._loop.call_soon(call)

    async def _within(self, settled: Settled) -> None:
        with self._scope:
            await self._run.run(settled)

    def _end(self, error: BaseException | None) -> None:
        self._ended = True  # from here on nobody has to be told of what the caller does
        self._mailbox.end(error)
        self._over.set()
        self._joined.wait(JOIN_S)
