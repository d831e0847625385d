"""What is put into a datagram besides its message, and who is told news when nothing else is sent.

Lifeguard's buddy system (section IV-C): whatever goes to a peer that is not believed alive says so
first, be it a ping or the answer to one, so that it can refute at once.
"""

from collections.abc import Iterable
from math import ceil, inf, log10
from typing import assert_never

from overlay.membership.beliefs import Beliefs
from overlay.membership.knobs import Knobs
from overlay.membership.messages import (
    Datagram,
    Dead,
    Effects,
    Gossip,
    Left,
    MemberState,
    Message,
    Suspect,
    Update,
    room_beside,
)
from overlay.membership.refuting import Myself
from overlay.membership.roster import Member
from overlay.names import PeerId

GOODBYES = 4
"""Times `gossip_fanout` peers are told directly that this one leaves; they tell the others."""


class Telling:
    """Writes datagrams.

    Attributes:
        next_gossip: when news are due; `inf` if there are none.
    """

    def __init__(self, me: Myself, beliefs: Beliefs, knobs: Knobs) -> None:
        self.next_gossip = inf
        self._last_gossip = -inf
        self._me = me
        self._beliefs = beliefs
        self._roster = beliefs.roster
        self._knobs = knobs

    def post(
        self,
        effects: Effects,
        to: PeerId,
        message: Message,
        first: tuple[Update, ...] = (),
        *,
        reliable: bool = False,
    ) -> None:
        """Add a datagram: first what its receiver must hear, then news as far as they fit."""
        member = self._roster.get(to)
        accusation = None if member is None else self.accusation(member)
        if accusation is not None:
            first = (accusation, *first)
        if self._beliefs.queue:
            room = room_beside(message) - sum(update.SIZE for update in first)
            repeats = self._knobs.retransmit * ceil(log10(self._roster.size + 1))
            first = (*first, *self._beliefs.queue.take(room, repeats, first))
        effects.datagrams.append(Datagram(to, message, first, reliable))

    def accusation(self, member: Member) -> Update | None:
        """Return what the member is to be told, so that it can refute it; None if it is alive."""
        match member.state:
            case MemberState.ALIVE:
                return None
            case MemberState.SUSPECT:
                accuser = member.suspicion.accusers[0] if member.suspicion else self._me.peer
                return Suspect(member.peer, member.incarnation, accuser)
            case MemberState.DEAD:
                return Dead(member.peer, member.incarnation, self._me.peer)
            case MemberState.LEFT:
                return member.proof
            case _:
                assert_never(member.state)

    def told_of(self, peers: Iterable[PeerId]) -> list[Update]:
        """Return what is to be told of `peers` to somebody who may have missed it.

        What a peer signed comes before what it is accused of. Of the dead it is said that they are
        suspect: two halves of a network, each holding the other for dead, would otherwise kill
        everybody when they meet again (memberlist merges states in this way too).
        """
        updates: list[Update] = []
        for peer in peers:
            if peer == self._me.peer and self._me.counters.refutations:
                updates.append(self._me.alive())
            member = self._roster.get(peer)
            if member is None:
                continue
            if member.proof is not None:
                updates.append(member.proof)
            if member.state is MemberState.DEAD:
                updates.append(Suspect(peer, member.incarnation, self._me.peer))
            elif member.suspicion is not None:
                updates.append(Suspect(peer, member.incarnation, member.suspicion.accusers[0]))
        return updates

    def arm(self, now: float) -> None:
        """Let gossip begin if there are news and somebody to tell."""
        if self.next_gossip == inf and self._beliefs.queue and self._roster.size > 1:
            self.next_gossip = max(now, self._last_gossip + self._knobs.gossip_interval_s)

    def gossip(self, now: float, effects: Effects) -> None:
        """Tell news to some random peers, if it is time."""
        if now < self.next_gossip:
            return
        self._last_gossip, self.next_gossip = now, inf
        since = now - self._knobs.gossip_to_dead_s
        for member in self._roster.audience(self._knobs.gossip_fanout, since):
            if self._beliefs.queue:
                self.post(effects, member.peer, Gossip())

    def say_goodbye(self, goodbye: Left, effects: Effects) -> None:
        """Tell as many as one burst covers."""
        for member in self._roster.audience(GOODBYES * self._knobs.gossip_fanout, gone_since=inf):
            self.post(effects, member.peer, Gossip(), (goodbye,))
