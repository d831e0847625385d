"""What a client is asked to send, request by request: each kind says when its next one is due.

Times are seconds of one clock that only goes forward. Whoever sends tells a stream that the request
that was due is `taken`, and that one is `over`.
"""

from collections.abc import Iterator
from itertools import islice
from math import inf
from random import Random
from typing import Protocol

from bench.lab.loading.arrivals import Arrivals


class Stream(Protocol):
    """A row of requests.

    Attributes:
        due: when the next one is; infinite if none is now.
        ended: no more will be due.
    """

    due: float
    ended: bool

    def taken(self) -> None:
        """Take note that the request that was due is on its way, or given up."""
        ...

    def over(self, now: float) -> None:
        """Take note that a request is answered, or failed."""
        ...


class Timed:
    """Requests at given times, whatever becomes of them.

    Args:
        times: seconds from the beginning, in order.
        began: the beginning.
    """

    __slots__ = ("_began", "_times", "due", "ended")

    def __init__(self, times: Iterator[float], began: float) -> None:
        self._began, self._times = began, times
        self.due, self.ended = inf, False
        self.taken()

    def taken(self) -> None:
        """See `Stream`."""
        self.due = self._began + next(self._times, inf)
        self.ended = self.due == inf

    def over(self, now: float) -> None:
        """See `Stream`."""


def following(arrivals: Arrivals, count: int | None, random: Random, began: float) -> Timed:
    """Return so many requests that follow each other so; without end if `count` is None."""
    return Timed(islice(arrivals.times(random), count), began)


class Closed:
    """Requests of which each is due as soon as one before it is over.

    Args:
        count: of them; None for no end.
        at_once: how many are under way.
        began: the beginning.
    """

    __slots__ = ("_free", "_left", "due", "ended")

    def __init__(self, count: int | None, at_once: int, began: float) -> None:
        self._left = inf if count is None else count
        self._free = at_once
        self.due, self.ended = began, self._left <= 0
        self._place(began)

    def taken(self) -> None:
        """See `Stream`."""
        self._free -= 1
        self._left -= 1
        self.ended = self._left <= 0
        self._place(self.due)

    def over(self, now: float) -> None:
        """See `Stream`."""
        self._free += 1
        if self.due == inf:
            self._place(now)

    def _place(self, now: float) -> None:
        self.due = now if self._free > 0 and not self.ended else inf


class Paced:
    """Requests at a rate that changes while they go out; without end.

    How far the next request has come is kept over a change, so that over any row of rates as many
    are due as these sum up to, give or take one.
    """

    __slots__ = ("_at", "_next", "_positions", "_since", "due", "ended", "rate")

    def __init__(self, arrivals: Arrivals, random: Random) -> None:
        self._positions = arrivals.positions(random)
        self._next = next(self._positions)
        self._at = self._since = self.rate = 0.0
        self.due, self.ended = inf, False

    def change(self, rate: float, now: float) -> None:
        """Have `rate` requests a second be due from now on; all that were due are taken by now."""
        self._at += (now - self._since) * self.rate
        self._since, self.rate = now, rate
        self._place()

    def taken(self) -> None:
        """See `Stream`."""
        self._next = next(self._positions, inf)
        self._place()

    def over(self, now: float) -> None:
        """See `Stream`."""

    def _place(self) -> None:
        left = self._next - self._at
        self.due = self._since + left / self.rate if self.rate > 0 else inf
