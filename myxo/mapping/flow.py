"""Between a map and its caller: items one way, outcomes the other, neither too far ahead."""

from collections.abc import Callable

import trio

from myxo.mapping.items import Items
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.settings import MapSettings


class News:
    """Wakes who waits for a change; whoever took `next` before looking misses none.

    Attributes:
        next: is set at the next change.
    """

    def __init__(self) -> None:
        self.next = trio.Event()

    def tell(self) -> None:
        """Wake them."""
        self.next.set()
        self.next = trio.Event()


class Flow:
    """A map as its caller sees it; those who do something with the items build on it.

    Args:
        items: by index.
        deliver: takes outcomes, each index once.
        settings: what the caller said.
        read_more: asks for so many items more of an input that is not whole; None where all are
            there.
    """

    def __init__(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> None:
        self._items = items
        self._settings = settings
        self._news = News()
        self._deliver = deliver
        self._read_more = read_more
        self._untaken = 0

    def taken(self, outcomes: int) -> None:
        """Note that the caller has taken so many outcomes."""
        was_held_back = self._is_held_back()
        self._untaken -= outcomes
        if was_held_back:
            self.look_again()

    def look_again(self) -> None:
        """Have whoever gives out items see anew what is to be done: something has changed."""
        self._news.tell()

    def _is_held_back(self) -> bool:
        """Whether the caller has more outcomes to take than it is to be given ahead."""
        untaken = self._settings.untaken
        return untaken is not None and self._untaken >= untaken

    def _read(self, wanted: int) -> None:
        """Have so many items more of the input read, if there are more to read."""
        if wanted > 0 and self._read_more is not None:
            self._read_more(wanted)

    def _hand_over(self, outcomes: Outcomes) -> None:
        """Give outcomes to the caller, and let go of their items."""
        self._items.done(outcomes.indices)
        self._untaken += len(outcomes.indices)
        self._deliver(outcomes)
