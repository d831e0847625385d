"""What is believed of other peers, and how updates change it.

A belief is a state at an *incarnation*, which its owner alone can raise: `Alive` and `Left` carry
their peer's signature. A higher incarnation outranks whatever is known of a lower one; for the same
one, alive gives way to suspect, suspect to dead, and all to left.

    update    is news if its incarnation is                     and then
    Alive     above what is known                               alive, whatever it was
    Left      above, or what is known of one that has not left  left
    Suspect   what is known, of an alive or suspect peer        suspect, or confirmed
    Dead      what is known, of a suspect peer                  dead
    Dead      what is known, of an alive peer                   suspect

Anybody may accuse, and the accused refutes by signing a higher incarnation. Two rules keep the
power to accuse from being the power to kill, and differ from SWIM's:

- An accusation of an incarnation that was not heard of yet changes nothing. Whoever made up a high
  one would otherwise have the peer dead for good. It may be true of course, when the peer's
  refutation was lost on its way here; so the peer is probed at once, and either tells its
  incarnation, or is found silent.
- Nobody is dead at a stroke: `Dead` is believed only of a peer that has been suspect here for half
  of the least time that suspects have, in which it could have refuted. Before that it counts as a
  suspicion. Else one peer that was cut off, and comes back with its news that all others are dead,
  would be believed. For a peer that is really dead it makes no difference: everybody heard of the
  suspicion long before.

Locally, an answer to a ping that was sent after a suspicion began ends it: who answers lives. That
is told to nobody; the accused does so itself, since every ping to a suspect says that it is one.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import assert_never

from overlay.membership.broadcasts import Broadcasts
from overlay.membership.knobs import Knobs
from overlay.membership.messages import (
    Alive,
    Change,
    Dead,
    Effects,
    Left,
    MemberState,
    Suspect,
    Update,
)
from overlay.membership.refuting import Myself
from overlay.membership.roster import Member, Roster
from overlay.membership.suspicion import Suspicion
from overlay.names import PeerId

EPOCH_SHIFT = 16
"""An incarnation is its owner's epoch in milliseconds, and in the low bits how often it refuted."""


@dataclass(slots=True)
class Heard:
    """What some updates call for.

    Attributes:
        accused: this peer itself is not believed to be there by everybody.
        doubtful: members that may have died in an incarnation that is not known yet.
    """

    accused: bool = False
    doubtful: list[Member] = field(default_factory=list)


class Beliefs:
    """The beliefs about all members.

    Attributes:
        vouched: peers that are not accused here, whatever others say of them.
        queue: the news that are to be passed on.
        moved: suspicions that began, or end sooner, since this list was last emptied.
    """

    def __init__(self, me: Myself, knobs: Knobs, rng: random.Random) -> None:
        self.vouched: set[PeerId] = set()
        self.roster = Roster(rng)
        self.queue = Broadcasts()
        self.moved: list[Suspicion] = []
        self._me = me
        self._knobs = knobs

    def learn(self, peer: PeerId, incarnation: int, now: float, effects: Effects) -> None:
        """Take in that a record of `peer` was accepted, which says that it is there."""
        member = self.roster.get(peer)
        if peer == self._me.peer:
            return
        if member is None:
            if self.roster.add(peer, incarnation) is not None:
                effects.changes.append(Change(peer, MemberState.ALIVE))
        elif incarnation > member.incarnation:
            member.incarnation, member.proof = incarnation, None
            self.queue.drop(peer)
            self._enter(member, MemberState.ALIVE, now, effects)

    def hear(self, updates: Iterable[Update], now: float, effects: Effects) -> Heard:
        """Take in updates; the signed ones first, since others may build on them."""
        heard = Heard()
        for update in sorted(updates, key=lambda update: isinstance(update, Suspect | Dead)):
            member = self.roster.get(update.peer)
            if update.peer == self._me.peer:
                if self._me.hear(update):
                    heard.accused = True
                    self.queue.put(self._me.alive())
            elif member is not None:
                self._hear_of(member, update, now, effects, heard)
            elif isinstance(update, Alive | Suspect):
                note_unknown(effects, update.peer)
        return heard

    def suspect(self, member: Member, accuser: PeerId, now: float, effects: Effects) -> bool:
        """Take in that `accuser` suspects a member; return if that began a suspicion."""
        began = member.suspicion is None
        if member.suspicion is None:
            suspicion = Suspicion.begin(member.peer, accuser, now, self.roster.size, self._knobs)
            member.suspicion = suspicion
            self._me.counters.suspicions += 1
            self._enter(member, MemberState.SUSPECT, now, effects)
        elif not member.suspicion.confirm(accuser):
            return False
        self.moved.append(member.suspicion)
        self.queue.put(Suspect(member.peer, member.incarnation, accuser))
        return began

    def clear(self, member: Member, now: float, effects: Effects) -> None:
        """Take in that a suspect answered."""
        self.queue.drop(member.peer)
        self._enter(member, MemberState.ALIVE, now, effects)

    def expire(self, suspicion: Suspicion, now: float, effects: Effects) -> None:
        """End a suspicion that nobody refuted in time."""
        member = self.roster.get(suspicion.peer)
        if member is None or member.suspicion is not suspicion:
            return
        if member.peer in self.vouched:
            self.clear(member, now, effects)
        else:
            self._kill(member, self._me.peer, now, effects)

    def forget(self, peer: PeerId) -> None:
        """Drop a member and what is said about it."""
        member = self.roster.get(peer)
        if member is not None:
            _end_suspicion(member)
        self.roster.forget(peer)
        self.queue.drop(peer)
        self.vouched.discard(peer)

    # what is said of others

    def _hear_of(
        self, member: Member, update: Update, now: float, effects: Effects, heard: Heard
    ) -> None:
        match update:
            case Alive():
                if update.incarnation > member.incarnation:
                    self._believe(member, update, MemberState.ALIVE, now, effects)
            case Left():
                same = update.incarnation == member.incarnation
                stays = same and member.state is not MemberState.LEFT
                if stays or update.incarnation > member.incarnation:
                    self._believe(member, update, MemberState.LEFT, now, effects)
            case Suspect() | Dead():
                if member.peer in self.vouched or update.incarnation < member.incarnation:
                    return
                if update.incarnation > member.incarnation:
                    self._doubt(member, update, effects, heard)
                elif member.is_there:
                    self._accuse(member, update, now, effects)
            case _:
                assert_never(update)

    def _believe(
        self, member: Member, said: Alive | Left, state: MemberState, now: float, effects: Effects
    ) -> None:
        if self._me.is_authentic(said):
            member.incarnation, member.proof = said.incarnation, said
            self.queue.put(said)
            self._enter(member, state, now, effects)

    def _doubt(
        self, member: Member, update: Suspect | Dead, effects: Effects, heard: Heard
    ) -> None:
        """Take in an accusation of an incarnation that is not known."""
        self._me.counters.ignored += 1
        heard.doubtful.append(member)
        if update.incarnation >> EPOCH_SHIFT != member.incarnation >> EPOCH_SHIFT:
            note_unknown(effects, member.peer)

    def _accuse(self, member: Member, update: Suspect | Dead, now: float, effects: Effects) -> None:
        suspicion = member.suspicion
        ripe = suspicion is not None and now >= suspicion.since + suspicion.least_s / 2
        if isinstance(update, Dead) and ripe:
            self._kill(member, update.accuser, now, effects)
        elif self._may_accuse(update):
            self.suspect(member, update.accuser, now, effects)

    def _may_accuse(self, update: Suspect | Dead) -> bool:
        """Whether the accuser's word counts: not my own coming back, nor a stranger's."""
        accuser = self.roster.get(update.accuser)
        return accuser is not None and accuser.is_there and update.accuser != update.peer

    def _kill(self, member: Member, accuser: PeerId, now: float, effects: Effects) -> None:
        self._me.counters.deaths += 1
        self.queue.put(Dead(member.peer, member.incarnation, accuser))
        self._enter(member, MemberState.DEAD, now, effects)

    def _enter(self, member: Member, state: MemberState, now: float, effects: Effects) -> None:
        if state is not MemberState.SUSPECT:
            _end_suspicion(member)
        if state is not member.state:
            self.roster.enter(member, state, now)
            effects.changes.append(Change(member.peer, state))


def note_unknown(effects: Effects, peer: PeerId) -> None:
    """Say once that the record of `peer` is wanted."""
    if peer not in effects.unknown:
        effects.unknown.append(peer)


def _end_suspicion(member: Member) -> None:
    if member.suspicion is not None:
        member.suspicion.deadline = inf
        member.suspicion = None


def incarnation_of(epoch_s: float) -> int:
    """Return the first incarnation of a peer whose epoch, its clock at its start, this is."""
    return max(int(epoch_s * 1000), 0) << EPOCH_SHIFT
