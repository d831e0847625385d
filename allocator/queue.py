"""Which start goes next on a machine that can start only so many at once.

An engine that is asked for a hundred containers at once starts none of them sooner, and takes the
processor from everything that runs. So starts take turns: so many at once, the others wait. Who
waits is served by fair queueing (Nagle, RFC 970; Demers, Keshav and Shenker 1989): owners in turn,
of each owner the peers that ask in turn, and of each peer its starts in the order they came. An
owner that has a start under way comes after one that has none. Starts take about equally long, so
plain round robin needs no deficits.

The queue is bounded. When it is full, the longest queue gives way (McKenney 1990): an owner with
fewer waiting displaces the newest start of the one with the most, so nobody can fill it for others.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from overlay.names import PeerId

MAX_WAITING = 256
"""Starts: at 20 a second the last one waits 13 s, and a caller has given up soon after."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A start that wants its turn.

    Attributes:
        owner: whose service it is.
        caller: the peer that asked.
    """

    owner: PeerId
    caller: PeerId | None = None


_Callers = OrderedDict[PeerId | None, deque[Ticket]]


@dataclass(slots=True)
class StartQueue:
    """Starts under way and starts that wait. Pure.

    Attributes:
        slots: how many may be under way at once.
        most: how many may wait.
    """

    slots: int
    most: int = MAX_WAITING
    _owners: OrderedDict[PeerId, _Callers] = field(default_factory=OrderedDict)
    _waiting: set[Ticket] = field(default_factory=set)
    _under_way: set[Ticket] = field(default_factory=set)

    def join(self, ticket: Ticket) -> Ticket | None:
        """Let a start wait; return the one that has to leave for it, which may be itself."""
        displaced = self._displaced_by(ticket) if len(self._waiting) >= self.most else None
        if displaced is ticket:
            return ticket
        if displaced is not None:
            self.leave(displaced)
        callers = self._owners.setdefault(ticket.owner, OrderedDict())
        callers.setdefault(ticket.caller, deque()).append(ticket)
        self._waiting.add(ticket)
        return displaced

    def next(self) -> Ticket | None:
        """Return the start whose turn it is, now under way; None if none may go."""
        if len(self._under_way) >= self.slots or not self._owners:
            return None
        running = Counter(ticket.owner for ticket in self._under_way)
        owner = min(self._owners, key=lambda owner: running[owner])  # the first of equals
        callers = self._owners[owner]
        caller, tickets = next(iter(callers.items()))
        ticket = tickets[0]
        self._owners.move_to_end(owner)
        callers.move_to_end(caller)
        self.leave(ticket)
        self._under_way.add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take out a start that is over, or that waits and is not wanted any more."""
        self._under_way.discard(ticket)
        if ticket not in self._waiting:
            return
        self._waiting.remove(ticket)
        callers = self._owners[ticket.owner]
        callers[ticket.caller].remove(ticket)
        if not callers[ticket.caller]:
            del callers[ticket.caller]
        if not callers:
            del self._owners[ticket.owner]

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """How many have their turn."""
        return len(self._under_way)

    def _displaced_by(self, ticket: Ticket) -> Ticket:
        lengths = {owner: _length(callers) for owner, callers in self._owners.items()}
        longest = max(lengths, key=lambda owner: lengths[owner])
        if lengths[longest] <= lengths.get(ticket.owner, 0) + 1:
            return ticket
        return max(self._owners[longest].values(), key=len)[-1]


def _length(callers: _Callers) -> int:
    return sum(len(tickets) for tickets in callers.values())
