"""Lanes that a map has done with, for the next map of the same program.

To ask a proxy for a worker costs more than some ten thousand small items do. Programs mostly
call one map after the other, so that a lane whose worker has answered everything stays open for
`KEEP_S`. It has a worker's room meanwhile, as a map's lane has, and the worker ends all the same
when its machine needs that room.
"""

import atexit
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

KEEP_S = 1.0
"""As long as an executor keeps its workers without a call."""

MOST = 64
"""Of one program; the oldest goes first."""

THROWN_BYTES = 1 << 12


Connection = socket.socket


@dataclass(frozen=True, slots=True)
class Spare:
    """What the next map has to know of a lane on which nothing is under way.

    Attributes:
        socket: of which nothing was read ahead.
        worker, id, python: as the worker has said.
        numbered: chunks that were sent on it: those of the next map have numbers behind theirs.
        holding: the proxy's connection, if `socket` leads past it.
    """

    socket: Connection
    worker: str
    id: str
    python: tuple[int, ...]
    numbered: int
    holding: Connection | None = None

    def close(self) -> None:
        """Let go of the worker."""
        self.socket.close()
        if self.holding is not None:
            self.holding.close()

    @property
    def stands(self) -> bool:
        """Whether the worker has neither said anything nor closed, and is held."""
        return _is_quiet(self.socket) and (self.holding is None or _is_open(self.holding))


class SpareLanes:
    """The spare lanes of a process, from whichever thread.

    Args:
        keep_s: seconds that each is kept.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, Hashable, Spare]] = deque()
        self._sweeping = False

    def keep(self, where: Hashable, spare: Spare) -> None:
        """Have a lane stay open for a while.

        Args:
            where: what it leads to; who takes it names the same.
            spare: the lane, which is this object's to close from now on.
        """
        with self._lock:
            self._kept.append((time.monotonic() + self._keep_s, where, spare))
            if len(self._kept) > MOST:
                self._kept.popleft()[2].close()
            begins, self._sweeping = not self._sweeping, True
        if begins:
            threading.Thread(target=self._sweep, name="myxo.map.spare", daemon=True).start()

    def take(self, where: Hashable) -> Spare | None:
        """Return a lane that leads there and is the caller's to close, or None."""
        while (spare := self._take_newest(where)) is not None:
            if spare.stands:
                return spare
            spare.close()  # its worker has gone, or is about to
        return None

    def close(self) -> None:
        """Close all that are kept."""
        with self._lock:
            while self._kept:
                self._kept.pop()[2].close()

    def after_fork(self) -> None:
        """In a child: leave the lanes to the parent, whose they are."""
        self._lock, self._sweeping = threading.Lock(), False
        self.close()

    def _take_newest(self, where: Hashable) -> Spare | None:
        with self._lock:
            for kept in reversed(self._kept):
                if kept[1] == where:
                    self._kept.remove(kept)
                    return kept[2]
        return None

    def _sweep(self) -> None:
        """Close what nobody has taken in time; return when there is nothing left."""
        while True:
            with self._lock:
                now = time.monotonic()
                while self._kept and self._kept[0][0] <= now:
                    self._kept.popleft()[2].close()
                if not self._kept:
                    self._sweeping = False
                    return
                next_one_s = self._kept[0][0] - now
            time.sleep(next_one_s)


def _is_quiet(connection: socket.socket) -> bool:
    """Whether the other end has neither said anything nor closed."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return not poll.poll(0)


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end has not closed; what it has said is thrown away."""
    try:
        while not _is_quiet(connection):
            if not connection.recv(THROWN_BYTES):
                return False
    except OSError:
        return False
    return True


SPARE_LANES = SpareLanes()
"""This program's."""

atexit.register(SPARE_LANES.close)
os.register_at_fork(after_in_child=SPARE_LANES.after_fork)
