"""Which fetches of images go at once, and which one gives way. Pure.

Fetches share one line and one disk, so few go at once, owners in turn (`queue.py`). But a fetch may
take an hour, because its image is large or because its source trickles, and nobody can say
beforehand. So it is as with a counter that sends the long case aside: after `LONG_S` a fetch that
holds others up goes on beside them and its lane is the next one's. So many may go on beside; when
there is no place left, the owner with the most there loses its oldest. What that fetched is kept
for its next try.

    waiting ──lane free──► in a lane ──LONG_S, others wait──► beside ──no place──► given up
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from allocator.rules.queue import StartQueue, Ticket

FETCHES_AT_ONCE = 2
"""More share the same line and disk, and each then comes later."""

LONG_S = 30.0
"""Half a gigabyte over a hundred megabits a second; what takes longer is in the way of others."""

BESIDE = 6
"""Each has up to three connections and a part of the disk."""


@dataclass(slots=True)
class Lanes:
    """Fetches that go, and that wait.

    Attributes:
        queue: those in lanes, and those that wait.
    """

    queue: StartQueue = field(default_factory=lambda: StartQueue(FETCHES_AT_ONCE))
    _since: dict[Ticket, float] = field(default_factory=dict)
    _beside: list[Ticket] = field(default_factory=list)

    def join(self, ticket: Ticket) -> Ticket | None:
        """Let a fetch wait; return the one that has to leave for it, which may be itself."""
        return self.queue.join(ticket)

    def go_on(self, now: float) -> Iterator[Ticket]:
        """Yield those whose turn it is, now in a lane."""
        for ticket, since in list(self._since.items()):
            if self.queue.waiting and now - since >= LONG_S:
                del self._since[ticket]
                self.queue.leave(ticket)
                self._beside.append(ticket)
        while (called := self.queue.next()) is not None:
            self._since[called] = now
            yield called

    def surplus(self) -> Iterator[Ticket]:
        """Yield those that have to be given up, no longer counted."""
        while len(self._beside) > BESIDE:
            held = Counter(ticket.owner for ticket in self._beside)
            most = max(held.values())
            gone = next(t for t in self._beside if held[t.owner] == most)
            self._beside.remove(gone)
            yield gone

    def wait_s(self, now: float) -> float:
        """Return after how long `go_on` may have somebody to call, if nobody leaves before."""
        return max(0.0, min(self._since.values(), default=inf) + LONG_S - now)

    def leave(self, ticket: Ticket) -> None:
        """Take out a fetch that is over, or is not wanted any more."""
        self._since.pop(ticket, None)
        self.queue.leave(ticket)
        if ticket in self._beside:
            self._beside.remove(ticket)
