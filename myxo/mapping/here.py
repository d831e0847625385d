"""A map within a mapped function: it is computed where that runs, one item after the other.

Else the items of the outer map could hold all workers, and each wait for one.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from myxo.mapping.backlog import Backlog
from myxo.mapping.flow import Flow
from myxo.mapping.items import Items
from myxo.mapping.loops import Settled
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.settings import MapSettings

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Here:
    """Items are computed in this process.

    Attributes:
        function: by what.
    """

    function: Function

    def begin(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> tuple[Backlog, "HereRun"]:
        """Return where indices are offered, and the map that takes them from there."""
        backlog = Backlog()
        return backlog, HereRun(self.function, items, backlog, deliver, settings, read_more)


class HereRun(Flow):
    """Runs one such map.

    Args:
        function: what is computed.
        items: of what.
        backlog: the indices that are to be computed.
        deliver: takes outcomes, each index once.
        settings: what the caller said.
        read_more: asks for so many items more of an input that is not whole; None where all are
            there.
    """

    def __init__(
        self,
        function: Function,
        items: Items,
        backlog: Backlog,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> None:
        super().__init__(items, deliver, settings, read_more)
        self._function = function
        self._backlog = backlog

    async def run(self, settled: Settled) -> None:
        """Call `settled` when each item has its outcome. Raises what is no `Exception`."""
        while not self._backlog.closed or len(self._backlog):
            news = self._news.next
            indices = None if self._is_held_back() else self._backlog.take(1)
            if not self._backlog.closed:
                self._read(1 - len(self._backlog))
            if indices is None:
                await news.wait()
            else:
                self._hand_over(self._outcomes(indices))
                await trio.lowlevel.checkpoint()
        settled()

    def _outcomes(self, indices: range) -> Outcomes:
        (item,) = self._items.take(indices)
        worker = f"process {os.getpid()}"
        tries = 0
        while True:
            try:
                return Outcomes(indices, [self._function(item)], {}, worker)
            except Exception as exc:  # noqa: BLE001  (whatever the user's code raises)
                tries += 1
                if tries > self._settings.retries:
                    exc.add_note(f"item {indices.start} of a map within a map")
                    return Outcomes(indices, [None], {indices.start: exc}, worker)
