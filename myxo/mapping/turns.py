"""Whose chunk a worker computes next: maps take turns, and none gets more time than another.

A worker serves several lanes, one for each map that wants it, and computes for one at a time. This
is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights: a lane's start
tag is the computing time that it has had, and the least one goes first. A lane that comes starts
where the one in turn has started, so that a map does not wait for what others have had. One that
had nothing to compute for a while starts at most `CREDIT_S` behind that: what was not used is lost,
but the moment between a chunk and the next one on its way does not cost a lane its share. A turn
ends, at an item's end, when its lane is `TURN_S` ahead of another one. In any time in which two
lanes both have work, what they get differs by two turns at the most, one of each.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

TURN_S = 0.1
"""Switching costs some 0.1 ms, and nobody sees a tenth of a second."""

CREDIT_S = 0.5

L = TypeVar("L", bound=Hashable)


class Turns(Generic[L]):
    """The lanes of one worker that have something to compute."""

    def __init__(self) -> None:
        self._ready: dict[L, float] = {}
        self._finished: dict[L, float] = {}
        self._now = 0.0

    @property
    def waiting(self) -> list[L]:
        """The lanes that have something to compute, the one in turn among them."""
        return list(self._ready)

    def ready(self, lane: L) -> None:
        """Note that a lane has something to compute."""
        if lane not in self._ready:
            finished = self._finished.pop(lane, self._now)
            self._ready[lane] = max(self._now - CREDIT_S, finished)

    def next(self) -> L | None:
        """Return the lane whose turn it is, or None if none has anything to compute."""
        if not self._ready:
            return None
        lane = min(self._ready, key=self._ready.__getitem__)
        self._now = self._ready[lane]
        return lane

    def is_over(self, lane: L, seconds: float) -> bool:
        """Return whether a lane's turn, which has taken so long, should end for another one."""
        ready = tuple(self._ready.items())  # of one moment: lanes' threads change it
        others = [started for other, started in ready if other is not lane]
        return bool(others) and self._ready.get(lane, 0.0) + seconds >= min(others) + TURN_S

    def used(self, lane: L, seconds: float, *, more: bool) -> None:
        """End a lane's turn.

        Args:
            lane: that had it.
            seconds: that it took.
            more: whether the lane has something more to compute.
        """
        started = self._ready.pop(lane, None)
        if started is None:
            return  # it has left meanwhile
        if more:
            self._ready[lane] = started + seconds
        else:
            self._finished[lane] = started + seconds

    def leave(self, lane: L) -> None:
        """Forget a lane."""
        self._ready.pop(lane, None)
        self._finished.pop(lane, None)
