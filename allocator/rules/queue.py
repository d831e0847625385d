"""Which start goes next on a machine that can start only so many at once.

An engine that is asked for a hundred containers at once starts none of them sooner, and takes the
processor from everything that runs. So starts take turns: so many at once, the others wait. Who
waits is served by fair queueing (Nagle, RFC 970; Demers, Keshav and Shenker 1989), to two sides at
once: the owners of the services, and the peers that ask. Either alone can be had for nothing: keys
for a thousand owners by one peer, and a peer for each start of one owner. So a start is as far
behind as the busier of its two sides is: it comes after those whose owner and caller both have
fewer starts under way, then after those who were both served longer ago. Where one peer asks for
everybody, as a machine's own proxy does, its owners take turns; where one owner's services are
asked for by many, these do. Starts take about equally long, so turns need no deficits.

The queue is bounded. When it is full, the longest side gives way (McKenney 1990): a start whose
owner and caller have fewer waiting displaces the newest start of whoever has the most; between two
that share this side, the other side decides. So nobody can fill it for others.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from overlay.names import PeerId

MAX_WAITING = 256
"""Starts: at 20 a second the last one waits 13 s, and a caller has given up soon after."""

MAX_SERVED = 1024
"""Owners and callers whose last turn is remembered; four times as many as may wait."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A start that wants its turn.

    Attributes:
        owner: whose service it is.
        caller: the peer that asked; None is this machine itself.
    """

    owner: PeerId
    caller: PeerId | None = None

    @property
    def sides(self) -> "tuple[Side, Side]":
        """Whose turn it takes."""
        return ("owner", self.owner), ("caller", self.caller)


Side = tuple[str, PeerId | None]
"""An owner or a caller; a key may be both, and is then two."""


@dataclass(slots=True)
class StartQueue:
    """Starts under way and starts that wait. Pure.

    Attributes:
        slots: how many may be under way at once.
        most: how many may wait.
    """

    slots: int
    most: int = MAX_WAITING
    _waiting: dict[Ticket, None] = field(default_factory=dict)
    _under_way: set[Ticket] = field(default_factory=set)
    _served: OrderedDict[Side, int] = field(default_factory=OrderedDict)
    _turns: int = 0

    def join(self, ticket: Ticket) -> Ticket | None:
        """Let a start wait; return the one that has to leave for it, which may be itself."""
        displaced = self._displaced_by(ticket) if len(self._waiting) >= self.most else None
        if displaced is ticket:
            return ticket
        if displaced is not None:
            self.leave(displaced)
        self._waiting[ticket] = None
        return displaced

    def next(self) -> Ticket | None:
        """Return the start whose turn it is, now under way; None if none may go."""
        if len(self._under_way) >= self.slots or not self._waiting:
            return None
        running = _counted(self._under_way)
        ticket = min(self._waiting, key=lambda t: self._behind(t, running))  # the first of equals
        self.leave(ticket)
        self._under_way.add(ticket)
        self._turns += 1
        for side in ticket.sides:
            self._served[side] = self._turns
            self._served.move_to_end(side)
        while len(self._served) > MAX_SERVED:
            self._served.popitem(last=False)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take out a start that is over, or that waits and is not wanted any more."""
        self._under_way.discard(ticket)
        self._waiting.pop(ticket, None)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def _behind(self, ticket: Ticket, running: Counter[Side]) -> tuple[int, ...]:
        """Return how many starts and turns each side had, the busier side first."""
        starts = sorted((running[side] for side in ticket.sides), reverse=True)
        turns = sorted((self._served.get(side, 0) for side in ticket.sides), reverse=True)
        return (*starts, *turns)

    def _displaced_by(self, ticket: Ticket) -> Ticket:
        """Return who gives way to `ticket`: itself, if its sides would wait for as many then."""
        lengths = _counted(self._waiting)
        last = max(reversed(self._waiting), key=lambda t: _crowding(t, lengths))
        crowding = _crowding(last, lengths)
        lengths.subtract(last.sides)
        lengths.update(ticket.sides)
        return last if _crowding(ticket, lengths) < crowding else ticket


def _crowding(ticket: Ticket, lengths: Counter[Side]) -> list[int]:
    """Return how many wait on each side of a start, on its longer side first."""
    return sorted((lengths[side] for side in ticket.sides), reverse=True)


def _counted(tickets: Iterable[Ticket]) -> Counter[Side]:
    return Counter(side for ticket in tickets for side in ticket.sides)
