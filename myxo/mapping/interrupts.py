"""How a worker's main thread is called away from what it computes: only signals can do that."""

import signal
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from types import FrameType


class Drained(BaseException):
    """The worker was told to end while it waited for work."""


class Interrupted(BaseException):
    """What is computed is no longer wanted, or has taken too long.

    It is no `Exception`, so that the function that is computed does not take it for its own.
    """


class Interrupts:
    """The signals of one computing process; made in its main thread.

    Attributes:
        draining: whether the process is to end when what it computes is done.
    """

    def __init__(self) -> None:
        self.draining = False
        self._waiting = False
        self._computing: object = None
        self._called: set[object] = set()
        self._main = threading.get_ident()
        signal.signal(signal.SIGTERM, self._drain)
        signal.signal(signal.SIGUSR1, self._interrupt)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the block, let a SIGTERM raise `Drained`, also one that has come before."""
        self._waiting = True
        try:
            if self.draining:
                raise Drained
            yield
        finally:
            self._waiting = False

    @contextmanager
    def computing(self, whose: Hashable) -> Iterator[None]:
        """For the block, let `interrupt` with the same argument raise `Interrupted`."""
        self._computing = whose
        try:
            yield
        finally:
            self._computing = None
            self._called.discard(whose)

    def interrupt(self, whose: Hashable) -> None:
        """Raise `Interrupted` in the main thread if it computes for `whose`; from any thread."""
        self._called.add(whose)
        signal.pthread_kill(self._main, signal.SIGUSR1)

    def forget(self, whose: Hashable) -> None:
        """Take in that nothing is computed for `whose` any more."""
        self._called.discard(whose)

    def _drain(self, _number: int, _frame: FrameType | None) -> None:
        self.draining = True
        if self._waiting:
            raise Drained

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._computing in self._called:
            self._computing = None
            raise Interrupted
