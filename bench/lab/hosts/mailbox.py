"""Traces that wait on a load host for whoever has its clients send requests.

They are numbered as they come, handed out in that order, and kept until who took them says so by
asking for later ones: a batch whose answer was lost is handed out again. What does not fit is
counted and gone; what was kept before is not touched.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from bench.lab.request_trace import RequestTrace

MAX_TRACES = 100_000
"""Some 60 MB, and a connection may be away for 100 s of 1,000 requests a second."""

MAX_BATCH = 2_000
"""Some 600 KB as JSON."""


class Mailbox:
    """Traces for one who commands.

    Attributes:
        dropped: traces that did not fit.
    """

    def __init__(self, most: int = MAX_TRACES) -> None:
        self.dropped = 0
        self._most = most
        self._kept: deque[RequestTrace] = deque()
        self._first = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._kept)

    @property
    def end(self) -> int:
        """Return the number that the next trace will have."""
        return self._first + len(self._kept)

    def put(self, traces: Sequence[RequestTrace]) -> None:
        """Keep traces, as far as they fit."""
        fitting = traces[: self._most - len(self._kept)]
        self._kept.extend(fitting)
        self.dropped += len(traces) - len(fitting)

    def take(self, after: int, most: int = MAX_BATCH) -> tuple[int, list[RequestTrace]]:
        """Forget the first `after` of all traces; return the number that follows and what is next.

        That number is what to ask with next, once these are safe.
        """
        while self._kept and self._first < after:
            self._kept.popleft()
            self._first += 1
        batch = list(islice(self._kept, most))
        return self._first + len(batch), batch
