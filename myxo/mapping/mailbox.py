"""What a map's own thread and its caller's hand each other: outcomes one way, items the other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from myxo.mapping.outcomes import InOrder, Outcomes


@dataclass(frozen=True, slots=True)
class Mail:
    """What there was to take.

    Attributes:
        outcomes: in the items' order if that was asked for, else in the order in which they came.
        came: of how many items outcomes have come, those that wait for earlier ones among them.
        wanted: items that the map could use now.
        ended: whether nothing more comes.
        error: with which it ended, or None.
    """

    outcomes: list[Outcomes]
    came: int
    wanted: int
    ended: bool
    error: BaseException | None


class Mailbox:
    """Filled in one thread, emptied in another.

    Args:
        notify: called, in the filling thread, when there is something to take.
        each: have that be called for all outcomes, and not only for those with a fault.
        ordered: have outcomes come in the items' order.
    """

    def __init__(
        self, notify: Callable[[], None], *, each: bool = True, ordered: bool = False
    ) -> None:
        self._notify = notify
        self._each = each
        self._in_order = InOrder() if ordered else None
        self._lock = threading.Lock()
        self._outcomes: list[Outcomes] = []
        self._came = 0
        self._wanted = 0
        self._ended = False
        self._error: BaseException | None = None

    def put(self, outcomes: Outcomes) -> None:
        """Hand over outcomes."""
        with self._lock:
            self._came += len(outcomes.indices)
            ready = [outcomes] if self._in_order is None else self._in_order.take(outcomes)
            for one in ready:
                self._lay_down(one)
        if self._each or any(one.faults for one in ready):
            self._notify()

    def _lay_down(self, outcomes: Outcomes) -> None:
        """Keep outcomes, in one list with those before if the caller is not waiting for each.

        Whoever has just read results has them at hand: to put them together later takes ten times
        as long.
        """
        last = self._outcomes[-1] if self._outcomes else None
        together = self._in_order is not None and not self._each
        if last is None or not together or last.faults or outcomes.faults:
            self._outcomes.append(outcomes)
            return
        last.values.extend(outcomes.values)
        indices = range(last.indices.start, outcomes.indices.stop)
        self._outcomes[-1] = Outcomes(indices, last.values, {}, outcomes.worker)

    def want(self, items: int) -> None:
        """Ask for so many items of the input."""
        with self._lock:
            self._wanted = max(self._wanted, items)
        self._notify()

    def end(self, error: BaseException | None) -> None:
        """Note that nothing more comes."""
        with self._lock:
            self._ended, self._error = True, error
        self._notify()

    def take(self) -> Mail:
        """Return what there is, once; what was wanted is asked for once."""
        with self._lock:
            mail = Mail(self._outcomes, self._came, self._wanted, self._ended, self._error)
            self._outcomes, self._came, self._wanted = [], 0, 0
        return mail
