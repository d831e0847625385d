"""How a worker's main thread is called away from what it computes: only signals can do that."""

import signal
import threading
from collections.abc import Iterator
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
        self._waiting = self._computing = False
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
    def computing(self) -> Iterator[None]:
        """For the block, let `interrupt` raise `Interrupted`."""
        self._computing = True
        try:
            yield
        finally:
            self._computing = False

    def interrupt(self) -> None:
        """Raise `Interrupted` in the main thread if it computes; from any thread."""
        signal.pthread_kill(self._main, signal.SIGUSR1)

    def _drain(self, _number: int, _frame: FrameType | None) -> None:
        self.draining = True
        if self._waiting:
            raise Drained

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._computing:
            self._computing = False
            raise Interrupted
