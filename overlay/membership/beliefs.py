"""What is believed of each peer, and how updates change it.

A belief is a state at an *incarnation*, which its owner alone can raise: `Alive` and `Left` carry
their peer's signature. For one incarnation, alive gives way to suspect, suspect to dead, and all
to left; a higher incarnation gives way to nothing but itself. So whatever the order in which
updates arrive, and however often, those who heard the same believe the same.

    update    is news if its incarnation is                     and then
    Alive     above what is known                               alive, whatever it was
    Left      above, or what is known of one that has not left  left
    Suspect   what is known, of an alive peer                   suspect; others confirm
    Dead      what is known, of an alive or suspect peer        dead

Anybody may accuse, and the accused refutes by signing a higher incarnation. Here this differs from
SWIM, where an accusation of an incarnation that was not heard of yet counts too: whoever made up a
high one would have the peer dead for good, or drive its incarnation up until none is left. Such an
accusation changes nothing here. It may be true of course, when the peer's refutation was lost on
its way to us, so the peer is probed at once: it either tells its incarnation, or is found silent.
For the same reason an accused peer ignores what is said of incarnations it never had. (What it had
before a restart is lower: it starts from its epoch.)

Locally, an answer to a ping that was sent after a suspicion began ends it: who answers lives. That
is told to nobody; the accused does so itself, since every ping to a suspect says that it is one.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil, inf, log10
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
from overlay.membership.roster import Member, Roster
from overlay.membership.suspicion import Suspicion
from overlay.names import PeerId

EPOCH_SHIFT = 16
"""An incarnation is its owner's epoch in milliseconds, and in the low bits how often it refuted."""

Sign = Callable[[type[Alive] | type[Left], int], bytes]
Verify = Callable[[Alive | Left], bool]


@dataclass(slots=True)
class Counters:
    """How often things happened since the start.

    Attributes:
        probes: rounds begun.
        acks: rounds that ended with an answer.
        failures: rounds that ended without one.
        suspicions: peers that became suspect here.
        deaths: peers that became dead here.
        refutations: accusations of this peer that it answered with a higher incarnation.
        ignored: messages that were not awaited or not for this peer, and accusations of
            incarnations that nobody had signed.
        forged: signatures that were not their peer's.
        samples: RTTs measured.
    """

    probes: int = 0
    acks: int = 0
    failures: int = 0
    suspicions: int = 0
    deaths: int = 0
    refutations: int = 0
    ignored: int = 0
    forged: int = 0
    samples: int = 0


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
    """The beliefs about all members, and this peer's own incarnation.

    Attributes:
        health: Lifeguard's score of doubt in oneself, 0 at best.
        queue: the news that are to be passed on.
        suspicions: those that began or come to an end sooner since this list was last emptied.
    """

    def __init__(
        self,
        me: PeerId,
        incarnation: int,
        knobs: Knobs,
        *,
        rng: random.Random,
        sign: Sign,
        verify: Verify,
    ) -> None:
        self.me = me
        self.incarnation = incarnation
        self.health = 0
        self.vouched: set[PeerId] = set()
        self.roster = Roster(rng)
        self.queue = Broadcasts()
        self.suspicions: list[Suspicion] = []
        self.counters = Counters()
        self._knobs = knobs
        self._sign = sign
        self._verify = verify
        self._own: Alive | None = None

    @property
    def repeats(self) -> int:
        """Return how often each update is to be sent."""
        return self._knobs.retransmit * ceil(log10(self.roster.size + 1))

    def doubt_self(self, by: int) -> None:
        """Move the health score, within its bounds."""
        self.health = min(max(self.health + by, 0), self._knobs.max_health)

    def learn(self, peer: PeerId, incarnation: int, now: float, effects: Effects) -> None:
        """Take in that a record of `peer` was accepted, which says that it is there."""
        if peer == self.me:
            return
        member = self.roster.get(peer)
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
        told = sorted(updates, key=lambda update: isinstance(update, Suspect | Dead))
        for update in told:
            if update.peer == self.me:
                heard.accused |= self._hear_of_me(update)
                continue
            member = self.roster.get(update.peer)
            if member is None:
                if isinstance(update, Alive | Suspect):
                    note_unknown(effects, update.peer)
                continue
            match update:
                case Alive() | Left():
                    self._hear_signed(member, update, now, effects)
                case Suspect() | Dead():
                    self._hear_accusation(member, update, now, effects, heard)
                case _:
                    assert_never(update)
        return heard

    def suspect(self, member: Member, accuser: PeerId, now: float, effects: Effects) -> bool:
        """Take in that `accuser` suspects a member; return if that began a suspicion."""
        began = member.suspicion is None
        if member.suspicion is None:
            suspicion = Suspicion.begin(member.peer, accuser, now, self.roster.size, self._knobs)
            member.suspicion = suspicion
            self.counters.suspicions += 1
            self._enter(member, MemberState.SUSPECT, now, effects)
        elif not member.suspicion.confirm(accuser):
            return False
        self.suspicions.append(member.suspicion)
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
            self._kill(member, Dead(member.peer, member.incarnation, self.me), now, effects)

    def forget(self, peer: PeerId) -> None:
        """Drop a member and what is said about it."""
        member = self.roster.get(peer)
        if member is not None:
            self._end_suspicion(member)
        self.roster.forget(peer)
        self.queue.drop(peer)
        self.vouched.discard(peer)

    def accusation(self, member: Member) -> Update | None:
        """Return what the member is to be told, so that it can refute it; None if it is alive."""
        match member.state:
            case MemberState.ALIVE:
                return None
            case MemberState.SUSPECT:
                accuser = member.suspicion.accusers[0] if member.suspicion else self.me
                return Suspect(member.peer, member.incarnation, accuser)
            case MemberState.DEAD:
                return Dead(member.peer, member.incarnation, member.accuser or self.me)
            case MemberState.LEFT:
                return member.proof
            case _:
                assert_never(member.state)

    def own(self) -> Alive:
        """Return this peer's own statement that it is there."""
        if self._own is None or self._own.incarnation != self.incarnation:
            signature = self._sign(Alive, self.incarnation)
            self._own = Alive(self.me, self.incarnation, signature)
        return self._own

    def goodbye(self) -> Left:
        """Return this peer's own statement that it goes."""
        return Left(self.me, self.incarnation, self._sign(Left, self.incarnation))

    def told_of(self, peers: Iterable[PeerId]) -> list[Update]:
        """Return what is to be told of `peers` to somebody who may have missed it.

        What a peer signed comes before what it is accused of. Of the dead it is said that they are
        suspect: two halves of a network, each holding the other for dead, would otherwise kill
        everybody when they meet again (memberlist merges states in this way too).
        """
        updates: list[Update] = []
        for peer in peers:
            if peer == self.me and self.counters.refutations:
                updates.append(self.own())
            member = self.roster.get(peer)
            if member is None:
                continue
            if member.proof is not None:
                updates.append(member.proof)
            if member.state is MemberState.DEAD:
                updates.append(Suspect(peer, member.incarnation, member.accuser or self.me))
            elif member.state is MemberState.SUSPECT:
                updates.extend(filter(None, [self.accusation(member)]))
        return updates

    # what is said of this peer

    def _hear_of_me(self, update: Update) -> bool:
        """Refute what is not so; return if whoever said it is to be told."""
        match update:
            case Alive() | Left():
                if update.incarnation > self.incarnation and self._is_authentic(update):
                    self.incarnation = update.incarnation  # before a restart, by a faster clock
                    self._refute()
                    return True
                if update.incarnation == self.incarnation and isinstance(update, Left):
                    self._refute()
                    return True
                return update.incarnation < self.incarnation and isinstance(update, Left)
            case Suspect() | Dead():
                if update.incarnation > self.incarnation:
                    self.counters.ignored += 1
                    return False
                if update.incarnation == self.incarnation:
                    self._refute()
                return True
            case _:
                assert_never(update)

    def _refute(self) -> None:
        self.incarnation += 1
        self.counters.refutations += 1
        self.doubt_self(+1)
        self.queue.put(self.own())

    # what is said of others

    def _hear_signed(
        self, member: Member, update: Alive | Left, now: float, effects: Effects
    ) -> None:
        leaves = isinstance(update, Left)
        news = update.incarnation > member.incarnation or (
            leaves
            and update.incarnation == member.incarnation
            and member.state is not MemberState.LEFT
        )
        if not news or not self._is_authentic(update):
            return
        member.incarnation, member.proof = update.incarnation, update
        self.queue.put(update)
        self._enter(member, MemberState.LEFT if leaves else MemberState.ALIVE, now, effects)

    def _hear_accusation(
        self, member: Member, update: Suspect | Dead, now: float, effects: Effects, heard: Heard
    ) -> None:
        if member.peer in self.vouched or update.incarnation < member.incarnation:
            return
        if update.incarnation > member.incarnation:
            self._hear_of_the_future(member, update, effects, heard)
        elif not member.is_there:
            return
        elif isinstance(update, Dead):
            self._kill(member, update, now, effects)
        elif self._may_accuse(update):
            self.suspect(member, update.accuser, now, effects)

    def _hear_of_the_future(
        self, member: Member, update: Suspect | Dead, effects: Effects, heard: Heard
    ) -> None:
        self.counters.ignored += 1
        if update.incarnation >> EPOCH_SHIFT != member.incarnation >> EPOCH_SHIFT:
            note_unknown(effects, member.peer)
        heard.doubtful.append(member)

    def _may_accuse(self, update: Suspect) -> bool:
        """Whether the accuser's word counts: not my own coming back, nor a stranger's."""
        accuser = self.roster.get(update.accuser)
        return accuser is not None and accuser.is_there and update.accuser != update.peer

    def _kill(self, member: Member, update: Dead, now: float, effects: Effects) -> None:
        member.accuser = update.accuser
        self.counters.deaths += 1
        self.queue.put(update)
        self._enter(member, MemberState.DEAD, now, effects)

    def _enter(self, member: Member, state: MemberState, now: float, effects: Effects) -> None:
        if state is not MemberState.SUSPECT:
            self._end_suspicion(member)
        if state is not member.state:
            self.roster.enter(member, state, now)
            effects.changes.append(Change(member.peer, state))

    @staticmethod
    def _end_suspicion(member: Member) -> None:
        if member.suspicion is not None:
            member.suspicion.deadline = inf
            member.suspicion = None

    def _is_authentic(self, update: Alive | Left) -> bool:
        authentic = self._verify(update)
        self.counters.forged += not authentic
        return authentic


def note_unknown(effects: Effects, peer: PeerId) -> None:
    """Say once that the record of `peer` is wanted."""
    if peer not in effects.unknown:
        effects.unknown.append(peer)


def incarnation_of(epoch_s: float) -> int:
    """Return the first incarnation of a peer whose epoch, its clock at its start, this is."""
    return max(int(epoch_s * 1000), 0) << EPOCH_SHIFT
