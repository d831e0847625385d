"""The table of members, and the orders in which they are picked.

Nothing here is iterated in the order of a set or a hash, so that a seeded run replays exactly.
Per member it takes some 150 bytes until the first probe: a simulator holds millions of these.
"""

import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from overlay.membership.messages import Alive, Left, MemberState
from overlay.membership.suspicion import Suspicion
from overlay.names import PeerId
from overlay.rtt import RttEstimate

MAX_MEMBERS = 10_000
"""Members held, gone ones included; the longest gone makes room first."""

THERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})

_LOOK_AHEAD = 8
"""Members of a round of probes that are looked at for one that is due: more than any preset's
`revisit_s` ÷ `probe_interval_s`, so that one is found if there is one."""


@dataclass(slots=True, eq=False)
class Path:
    """What is known of the way to a member.

    Attributes:
        rtt: by direct probes; None before the first answer.
        measured_at: time of the last sample.
        probed_at: time of the last probe's start.
        probing: a round of probes is under way.
    """

    rtt: RttEstimate | None = None
    measured_at: float = -inf
    probed_at: float = -inf
    probing: bool = False


@dataclass(slots=True, eq=False)
class Member:
    """What is known of a peer.

    Attributes:
        proof: what the peer signed last of its being there or going, if that was heard.
        suspicion: while it is suspect.
        gone_at: when it was found dead or left.
        listed: it has its turn in this round of probes still.
    """

    peer: PeerId
    incarnation: int
    state: MemberState = MemberState.ALIVE
    proof: Alive | Left | None = None
    suspicion: Suspicion | None = None
    gone_at: float = -inf
    listed: bool = False
    path: Path | None = None

    @property
    def is_there(self) -> bool:
        """Whether it is alive or suspect."""
        return self.state in THERE


class Roster:
    """All members by peer, and by whether they are there, dead, or left."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members: dict[PeerId, Member] = {}
        self._there: list[Member] = []
        self._dead: list[Member] = []
        self._left: list[Member] = []
        """The gone, the longest gone first."""
        self._turns: list[Member] = []
        self._turn = 0

    @property
    def size(self) -> int:
        """Return how many members there are that are not gone, this peer included."""
        return len(self._there) + 1

    @property
    def any_dead(self) -> bool:
        """Whether there is a dead member that may come back."""
        return bool(self._dead)

    def get(self, peer: PeerId) -> Member | None:
        """Return what is known of `peer`."""
        return self._members.get(peer)

    def there(self) -> Iterator[PeerId]:
        """Return those that are alive or suspect."""
        return iter([member.peer for member in self._there])

    def add(self, peer: PeerId, incarnation: int) -> Member | None:
        """Take in a new member that is alive; None if the table is full of such."""
        if len(self._members) >= MAX_MEMBERS:
            longest_gone = (self._left or self._dead)[:1]
            if not longest_gone:
                return None
            self.forget(longest_gone[0].peer)
        member = self._members[peer] = Member(peer, incarnation)
        self._there.append(member)
        self._give_a_turn(member)
        return member

    def enter(self, member: Member, state: MemberState, now: float) -> None:
        """Move `member` to another state."""
        old, new = self._group(member.state), self._group(state)
        member.state = state
        if old is new:
            return
        old.remove(member)
        new.append(member)
        if member.is_there:
            self._give_a_turn(member)
        else:
            member.gone_at = now

    def forget(self, peer: PeerId) -> None:
        """Drop a member."""
        member = self._members.pop(peer, None)
        if member is not None:
            self._group(member.state).remove(member)
            member.state = MemberState.DEAD  # so that its turn passes

    def helpers(self, count: int, besides: Member) -> list[Member]:
        """Return up to `count` random members that are alive."""
        some = self._some(self._there, 2 * count + 2)
        return [m for m in some if m.state is MemberState.ALIVE and m is not besides][:count]

    def some_alive(self, count: int) -> list[Member]:
        """Return up to `count` random members that nobody suspects."""
        return self._some([m for m in self._there if m.state is MemberState.ALIVE], count)

    def audience(self, count: int, gone_since: float) -> list[Member]:
        """Return up to `count` random members, some of which may have died since `gone_since`."""
        first = bisect_left(self._dead, gone_since, key=lambda member: member.gone_at)
        there = len(self._there)
        listeners = range(there + len(self._dead) - first)
        picked = self._rng.sample(listeners, min(count, len(listeners)))
        return [self._there[i] if i < there else self._dead[first + i - there] for i in picked]

    def some_dead(self) -> Member | None:
        """Return a random dead member."""
        return self._rng.choice(self._dead) if self._dead else None

    def next_turn(self, now: float, revisit_s: float) -> tuple[Member | None, float]:
        """Return whose turn to be probed it is, or else when to ask again.

        Everybody has one turn in a round, in a random order. Who was probed less than `revisit_s`
        ago changes places with the next who was not.
        """
        soonest = inf
        while self._skip_gone():
            ahead = range(self._turn, min(self._turn + _LOOK_AHEAD, len(self._turns)))
            for at in ahead:
                member = self._turns[at]
                due = _due(member, revisit_s)
                if due <= now and member.is_there and not _is_probed(member):
                    self._turns[at] = self._turns[self._turn]
                    self._turns[self._turn] = member
                    self._turn += 1
                    member.listed = False
                    return member, now
                if member.is_there:
                    soonest = min(soonest, max(due, now))
            return None, soonest
        return None, inf

    def _skip_gone(self) -> bool:
        """Move to the next turn of somebody who is there; False if there is nobody."""
        while self._there:
            if self._turn >= len(self._turns):
                self._turns, self._turn = list(self._there), 0
                self._rng.shuffle(self._turns)
                for member in self._turns:
                    member.listed = True
            if self._turns[self._turn].is_there:
                return True
            self._turns[self._turn].listed = False
            self._turn += 1
        return False

    def _give_a_turn(self, member: Member) -> None:
        """Insert a member at a random place of what is left of this round."""
        if member.listed:
            return
        at = self._rng.randint(self._turn, len(self._turns))
        self._turns.append(member)
        self._turns[at], self._turns[-1] = self._turns[-1], self._turns[at]
        member.listed = True

    def _group(self, state: MemberState) -> list[Member]:
        if state in THERE:
            return self._there
        return self._dead if state is MemberState.DEAD else self._left

    def _some(self, members: list[Member], count: int) -> list[Member]:
        return self._rng.sample(members, min(count, len(members)))


def _due(member: Member, revisit_s: float) -> float:
    return -inf if member.path is None else member.path.probed_at + revisit_s


def _is_probed(member: Member) -> bool:
    return member.path is not None and member.path.probing
