"""What happens next, in virtual time."""

from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from struct import Struct
from typing import Any

_NOTE = Struct("<dcHHq")

_FLUSH_BYTES = 1 << 16


class Events:
    """Acts to be done at a time, those at the same time in the order in which they were planned.

    Attributes:
        now: virtual seconds since the start.
        done: acts done.
    """

    __slots__ = ("_course", "_heap", "_noted", "_order", "done", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._course = blake2b(digest_size=16)
        self._noted = bytearray()

    def at(self, time: float, act: Callable[..., None], *args: Any) -> None:
        """Plan `act(*args)`; a time that has passed means now."""
        self._order += 1
        heappush(self._heap, (max(time, self.now), self._order, act, args))

    def after(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        """Plan `act(*args)` for so long from now."""
        self.at(self.now + seconds, act, *args)

    def run(self, until: float) -> None:
        """Do what is planned up to that time, and what that plans."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, act, args = heappop(heap)
            self.done += 1
            act(*args)
        self.now = until

    def note(self, kind: bytes, one: int, other: int, detail: int = 0) -> None:
        """Put something into the course of events: one letter, and what it was about."""
        self._noted += _NOTE.pack(self.now, kind, one, other, detail)
        if len(self._noted) >= _FLUSH_BYTES:
            self._flush()

    def course(self) -> str:
        """Return a digest of all that was noted: equal for equal courses only."""
        self._flush()
        return self._course.hexdigest()

    def _flush(self) -> None:
        self._course.update(self._noted)
        self._noted.clear()
