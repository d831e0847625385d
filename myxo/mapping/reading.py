"""How an input that is no sequence is read: each item as it is then, and none kept back."""

import copy
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

SLOW_S = 0.001
"""An item that took so long to come goes on its way before the next one is waited for."""

TRIED = 3
"""Items by which a source is known that fills the same object anew; two buffers by turns, too."""

FIXED = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types whose values nobody can change."""


class Snapshots:
    """Keeps items from changing when their source goes on.

    Some sources give the same array or list again and again, with other values in it. A loop uses
    each before it asks for the next; a map reads on before they are on their way. A source that
    does so is known by its first items, which are copied; of such a one all are.
    """

    def __init__(self) -> None:
        self._first: list[Any] = []
        self._last: Any = None
        self._reused = False

    def of(self, item: Any) -> Any:
        """Return what is to be kept of an item that was just read."""
        if type(item) in FIXED:
            return item
        if item is self._last or any(item is one for one in self._first):
            self._reused = True
        self._last = item
        if self._reused:
            return _copied(item)
        if len(self._first) == TRIED:
            return item
        self._first.append(item)
        return _copied(item)


def _copied(item: Any) -> Any:
    try:
        return copy.deepcopy(item)
    except Exception:  # noqa: BLE001  (whatever a class of the user's does there)
        return item


def read(source: Iterator[Any], most: int, snapshots: Snapshots) -> tuple[list[Any], bool]:
    """Return the next items of a source, and whether it has ended.

    Args:
        source: what is read.
        most: how many items; they are fewer where one was waited for.
        snapshots: of this source's items.
    """
    items: list[Any] = []
    began = time.perf_counter()
    for item in islice(source, most):
        items.append(snapshots.of(item))
        now = time.perf_counter()
        if now - began > SLOW_S:
            return items, False
        began = now
    return items, len(items) < most
