"""Bars on a terminal that show how far maps are; those of a program stand below each other."""

import threading
from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LATE_S = 0.5
"""What takes less shows no bar: it would be gone before it is read."""

LONGEST_LABEL = 40


class Board:
    """Where a program's bars are; it is there while there is a bar.

    Args:
        console: draws them.
        clock: returns seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self.clock = clock
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    def add(self, label: str, total: int | None, done: int) -> TaskID:
        """Show another bar, of so many items in all, if that is known."""
        with self._lock:
            if self._progress is None:
                self._progress = _progress(self._console)
                self._progress.start()
            return self._progress.add_task(label, total=total, completed=done)

    def show(self, task: TaskID, done: int) -> None:
        """Move a bar."""
        with self._lock:
            if self._progress is not None:
                self._progress.update(task, completed=done)

    def remove(self, task: TaskID) -> None:
        """Take a bar away."""
        with self._lock:
            if self._progress is None:
                return
            self._progress.remove_task(task)
            if not self._progress.tasks:
                self._progress.stop()
                self._progress = None


class Bar:
    """How far one map is.

    Args:
        board: where it is shown, once the map has taken `LATE_S`.
        label: whose bar it is.
        total: items in all, if that is known.
    """

    def __init__(self, board: Board, label: str, total: int | None) -> None:
        self._board = board
        self._label = label[:LONGEST_LABEL]
        self._total = total
        self._began = board.clock()
        self._done = 0
        self._task: TaskID | None = None

    def advance(self, items: int) -> None:
        """Take in that so many items more are done."""
        self._done += items
        if self._task is not None:
            self._board.show(self._task, self._done)
        elif self._board.clock() - self._began >= LATE_S:
            self._task = self._board.add(self._label, self._total, self._done)

    def end(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._board.remove(self._task)
            self._task = None


def begun_bar(label: str, total: int | None) -> Bar:
    """Return the bar of a map that begins now."""
    return Bar(_BOARD, label, total)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # a program's output is not the terminal's that the bars are on
        redirect_stderr=False,
    )


_BOARD = Board(Console(stderr=True))
