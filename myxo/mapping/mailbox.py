"""What a map's own thread and its caller's hand each other: outcomes one way, items the other."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from myxo.mapping.outcomes import Outcomes


@dataclass(frozen=True, slots=True)
class Mail:
    """What there was to take.

    Attributes:
        outcomes: in the order in which they came.
        wanted: items that the map could use now.
        ended: whether nothing more comes.
        error: with which it ended, or None.
    """

    outcomes: list[Outcomes]
    wanted: int
    ended: bool
    error: BaseException | None


class Mailbox:
    """Filled in one thread, emptied in another.

    Args:
        notify: called, in the filling thread, when there is something to take.
        each: have that be called for all outcomes, and not only for those with a fault.
    """

    def __init__(self, notify: Callable[[], None], *, each: bool = True) -> None:
        self._notify = notify
        self._each = each
        self._lock = threading.Lock()
        self._outcomes: deque[Outcomes] = deque()
        self._wanted = 0
        self._ended = False
        self._error: BaseException | None = None

    def put(self, outcomes: Outcomes) -> None:
        """Hand over outcomes."""
        with self._lock:
            self._outcomes.append(outcomes)
        if self._each or outcomes.faults:
            self._notify()

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
        """Return what there is; what was wanted is asked for once."""
        with self._lock:
            mail = Mail(list(self._outcomes), self._wanted, self._ended, self._error)
            self._outcomes.clear()
            self._wanted = 0
        return mail
