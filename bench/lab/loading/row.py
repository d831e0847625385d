"""A stream of requests, and how many of its requests are under way."""

from math import inf

import trio

from bench.lab.loading.streams import Stream


class Row:
    """A stream that a client sends.

    Attributes:
        open: requests of it that are not over.
        done: set when all are.
    """

    __slots__ = ("done", "open", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.open = 0
        self.done = trio.Event()
        self._look()

    def taken(self) -> None:
        """Take note that the request that was due is sent, waits, or is given up."""
        self.open += 1
        self.stream.taken()

    def over(self, now: float) -> None:
        """Take note that one of them is over."""
        self.open -= 1
        self.stream.over(now)
        self._look()

    def stop(self) -> None:
        """Have nothing more of it be due."""
        self.stream.due, self.stream.ended = inf, True
        self._look()

    def _look(self) -> None:
        if self.stream.ended and not self.open:
            self.done.set()
