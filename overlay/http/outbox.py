"""Whole messages, written together when a round of trio's loop ends.

A write to a socket is thousands of instructions of the kernel, which for one of this machine goes
on to do the receiver's part, too. Between the requests of one round each write costs twice what it
costs in a row with others: Python's code and the kernel's take turns in the processor's caches, and
who is woken by it often takes the processor at once. So a message after which it is the other end's
turn waits until every task has run that could, which is before the loop waits for anything again.

Where a round has one message only, there is nothing to gain: it would wait for the bookkeeping that
follows it. So messages wait only while one of the last few rounds had several.
"""

from typing import Protocol

import trio

MOST = 16
"""Messages that wait; more would keep the first of them waiting for longer than a write costs."""

BUSY_ROUNDS = 8
"""Under load a round with one message is seldom followed by another such."""


class Holding(Protocol):
    """A connection that holds a message."""

    def flush(self) -> None:
        """Write what the system takes, without waiting and whatever comes of it."""
        ...


class Outbox(trio.abc.Instrument):
    """The connections of one trio run that hold a message."""

    def __init__(self) -> None:
        self._holding: list[Holding] = []
        self._busy = 0  # rounds for which messages go on to wait
        self._messages = 0  # of this round

    def add(self, connection: Holding) -> bool:
        """Have `connection` flushed when this round ends, at the latest.

        Returns:
            Whether that is done; if not, its message should go out at once.
        """
        self._messages += 1
        if not self._busy:
            return False
        self._holding.append(connection)
        if len(self._holding) >= MOST:
            self._flush()
        return True

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        del timeout
        self._busy = BUSY_ROUNDS if self._messages > 1 else max(0, self._busy - 1)
        self._messages = 0
        if self._holding:
            self._flush()

    def _flush(self) -> None:
        holding, self._holding = self._holding, []
        for connection in holding:
            connection.flush()


_OUTBOX: trio.lowlevel.RunVar[Outbox] = trio.lowlevel.RunVar("overlay.http.outbox")


def outbox() -> Outbox:
    """Return the outbox of this trio run."""
    try:
        return _OUTBOX.get()
    except LookupError:
        made = Outbox()
        _OUTBOX.set(made)
        trio.lowlevel.add_instrument(made)
        return made
