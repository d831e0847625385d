"""Who is there: SWIM with Lifeguard's refinements.

Every peer probes another one now and then, in a random order. One that does not answer is probed
through others, so that a broken line between two peers is no evidence; if that fails, it is
*suspect*, and everybody hears so. A suspect that does not refute is *dead*, and with it everything
it published. What is news rides on whatever is sent anyway, and on a few datagrams besides. The
load of a peer does not depend on the size of the network. (Das, Gupta, Motivala, "SWIM", 2002;
Dadgar, Phillips, Currey, "Lifeguard", 2018.)

    module        decides
    rounds.py     when an answer is late, and what an answer answers
    beliefs.py    what an update changes, and how this peer refutes what is said of it
    suspicion.py  how long a suspect has
    broadcasts.py what is said next, and how often
    roster.py     whose turn it is

From Lifeguard is the doubt in oneself: a peer whose probes fail without even the helpers' nacks, or
that has to refute, is probably slow itself. Each of these raises its *health score*, each answer
lowers it, and all its probing takes 1 + score times as long. From Lifeguard too is the buddy
system: whatever is sent to a peer that is not believed alive says so first, whether it is a ping
or the answer to one, and it can refute at once.

Where it differs from the papers: whoever begins to suspect a peer begins another round of probes at
once, which tells it so; a probe is also repeated over a stream (as memberlist does over TCP); and
see `beliefs.py`, `told_of` and `accusation`.

Two things are no evidence against a peer. Time in which this process itself did not run is taken
out of everybody's silence. And a peer that is *vouched* for, since it is on the same machine and
connected, is judged by its connection alone: a process that waits for a busy core is not gone.

The core is pure: what was heard and the time go in, datagrams and changes come out.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import assert_never

from overlay.coordinates import Coordinates
from overlay.membership.beliefs import Beliefs, Sign, Verify, note_unknown
from overlay.membership.knobs import Knobs
from overlay.membership.messages import (
    Ack,
    Datagram,
    Effects,
    Gossip,
    Left,
    MemberState,
    Message,
    Nack,
    Ping,
    PingReq,
    Update,
    room_beside,
)
from overlay.membership.roster import Member, Path
from overlay.membership.rounds import Forward, Round, Rounds, Timeouts
from overlay.membership.suspicion import Suspicion
from overlay.membership.timers import Timers
from overlay.names import PeerId
from overlay.rtt import RttEstimate, with_sample

GOODBYES = 4
"""Times `gossip_fanout` peers are told directly that this one leaves; they tell the others."""

FORWARD_KEPT_S = 2
"""How long a helper still passes on an answer that comes after its nack, in timeout ceilings."""


class Membership:
    """The states and RTTs of all peers.

    Attributes:
        vouched: peers whose silence says nothing, nor what others say of it.
        coordinates: fed with each RTT sample.
        observing: a guest that nobody knows probes and accuses nobody; it hears what others say.
    """

    def __init__(
        self,
        me: PeerId,
        incarnation: int,
        knobs: Knobs,
        *,
        rng: random.Random,
        coordinates: Coordinates,
        sign: Sign,
        verify: Verify,
    ) -> None:
        self.me = me
        self.coordinates = coordinates
        self._knobs = knobs
        self._rng = rng
        self._beliefs = Beliefs(me, incarnation, knobs, rng=rng, sign=sign, verify=verify)
        self._roster = self._beliefs.roster
        self.vouched = self._beliefs.vouched
        self.counters = self._beliefs.counters
        self._timeouts = Timeouts(knobs, coordinates)
        self._rounds = Rounds(first_sequence=rng.getrandbits(32))
        self._timers = Timers[Round | Forward | Suspicion]()
        self._next_probe = inf
        self._last_probe = -inf
        self._next_gossip = inf
        self._last_gossip = -inf
        self._next_knock = inf
        self._goodbye: Left | None = None
        self.observing = False

    @property
    def incarnation(self) -> int:
        """Return this peer's own incarnation."""
        return self._beliefs.incarnation

    @property
    def health(self) -> int:
        """Return Lifeguard's local health score: 0 is well."""
        return self._beliefs.health

    @property
    def refutations(self) -> int:
        """Return how often this peer refuted an accusation."""
        return self.counters.refutations

    @property
    def samples(self) -> int:
        """Return how many RTTs were measured."""
        return self.counters.samples

    def state(self, peer: PeerId) -> MemberState:
        """Return what is believed of `peer`; one never heard of counts as dead."""
        member = self._roster.get(peer)
        return MemberState.DEAD if member is None else member.state

    def rtt(self, peer: PeerId) -> RttEstimate | None:
        """Return the measured RTT to `peer`, if a direct probe was ever answered."""
        member = self._roster.get(peer)
        return None if member is None or member.path is None else member.path.rtt

    def rtt_age(self, peer: PeerId, now: float) -> float | None:
        """Return how many seconds ago the RTT to `peer` was last measured."""
        member = self._roster.get(peer)
        if member is None or member.path is None or member.path.rtt is None:
            return None
        return now - member.path.measured_at

    def members(self) -> Iterator[PeerId]:
        """Return the peers that are alive or suspect, without this one."""
        return self._roster.there()

    def digest_updates(self, peers: Iterable[PeerId]) -> list[Update]:
        """Return what push-pull says of `peers`."""
        return self._beliefs.told_of(peers)

    # events

    def learn(self, peer: PeerId, incarnation: int, now: float) -> Effects:
        """Take in that a record of `peer` was accepted, signed in the epoch of `incarnation`."""
        effects = Effects()
        self._beliefs.learn(peer, incarnation, now, effects)
        return self._armed(now, effects)

    def receive(
        self,
        source: PeerId,
        message: Message,
        updates: Sequence[Update],
        now: float,
        *,
        reliable: bool = False,
    ) -> Effects:
        """Take in a datagram from the authenticated `source`.

        Args:
            source: who sent it.
            message: what it is.
            updates: what rides on it.
            now: the time.
            reliable: it came over a stream; the answer goes the same way.
        """
        effects = Effects()
        if self._goodbye is not None:
            self._answer_after_goodbye(source, message, effects, reliable)
            return effects
        if self._roster.get(source) is None and source != self.me:
            note_unknown(effects, source)
        heard = self._beliefs.hear(updates, now, effects)
        plea = (self._beliefs.own(),) if heard.accused else ()
        self._hear(source, message, plea, now, effects, reliable)
        for member in heard.doubtful:
            self._probe(member, now, effects)
        return self._armed(now, effects)

    def tick(self, now: float) -> Effects:
        """Do what is due at `now`."""
        effects = Effects()
        if self._goodbye is not None:
            return effects
        for timed in self._timers.due(now):
            match timed:
                case Suspicion():
                    self._beliefs.expire(timed, now, effects)
                case Round():
                    self._be_late(timed, now, effects)
                case Forward():
                    self._be_late_forward(timed, now, effects)
                case _:
                    assert_never(timed)
        self._armed(now, effects)
        self._probe_next(now, effects)
        self._knock(now, effects)
        self._gossip(now, effects)
        return self._armed(now, effects)

    def next_wake(self) -> float:
        """Return when `tick` has something to do next; `inf` if never."""
        return min(self._timers.next(), self._next_probe, self._next_gossip, self._next_knock)

    def cut(self, peer: PeerId, now: float) -> Effects:
        """Take in that the last connection to `peer` ended: it is suspect, and probed at once."""
        effects = Effects()
        self.vouched.discard(peer)
        member = self._roster.get(peer)
        if self._goodbye is None and member is not None and member.is_there:
            self._suspect(member, now, effects)
        return self._armed(now, effects)

    def probe(self, peer: PeerId, now: float) -> Effects:
        """Probe `peer` now, before its turn."""
        effects = Effects()
        member = self._roster.get(peer)
        if self._goodbye is None and member is not None:
            self._probe(member, now, effects)
        return self._armed(now, effects)

    def leave(self, now: float) -> Effects:
        """Say goodbye, once; nothing is probed or refuted from now on."""
        effects = Effects()
        if self._goodbye is None:
            self._goodbye = self._beliefs.goodbye()
            count = GOODBYES * self._knobs.gossip_fanout
            for member in self._roster.audience(count, gone_since=now):
                self._post(effects, member.peer, Gossip(), (self._goodbye,))
            self._timers.clear()
            self._next_probe = self._next_gossip = self._next_knock = inf
        return effects

    def stood_still(self, seconds: float) -> None:
        """Take time in which this process itself did not run out of everybody's silence."""
        self._timers.shift(seconds)
        self._next_probe += seconds
        self._next_gossip += seconds
        self._next_knock += seconds

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of `peer`."""
        self._beliefs.forget(peer)
        self.coordinates.forget(peer)

    # probing

    def _probe_next(self, now: float, effects: Effects) -> None:
        if now < self._next_probe:
            return
        if self.observing:
            self._next_probe = inf
            return
        doubt = 1 + self.health
        member, when = self._roster.next_turn(now, self._knobs.revisit_s * doubt)
        interval = self._knobs.probe_interval_s * doubt
        if member is None:
            self._next_probe = when if when > now else now + interval
            return
        self._last_probe = max(self._next_probe, now - interval / 2)
        self._next_probe = self._last_probe + interval
        self._probe(member, now, effects)

    def _probe(self, member: Member, now: float, effects: Effects) -> None:
        """Begin a round, if none is under way; one that is gone is only told so."""
        if not member.is_there:
            self._post(effects, member.peer, Ping(self._rounds.next_sequence(), member.peer))
            return
        path = member.path = member.path or Path()
        if path.probing or not self._rounds.may_begin:
            return
        path.probing, path.probed_at = True, now
        self.counters.probes += 1
        timeout = self._timeouts.direct(member) * (1 + self.health)
        begun = self._rounds.begin(member, timeout, now)
        self._timers.add(begun)
        self._post(effects, member.peer, Ping(begun.direct, member.peer))

    def _be_late(self, late: Round, now: float, effects: Effects) -> None:
        """Go over to indirect probes, or if those are late too, fail."""
        if late.member.peer in self.vouched or not late.member.is_there:
            self._end(late)
        elif late.indirect is None:
            self._probe_indirectly(late, now, effects)
        else:
            self._fail(late, now, effects)

    def _probe_indirectly(self, late: Round, now: float, effects: Effects) -> None:
        target = late.member
        helpers = self._roster.helpers(self._knobs.indirect_probes, besides=target)
        timeout = self._timeouts.indirect(helpers, target) * (1 + self.health)
        reliable, indirect = self._rounds.ask(late, [m.peer for m in helpers], now + timeout)
        self._timers.add(late)
        self._post(effects, target.peer, Ping(reliable, target.peer), reliable=True)
        accusation = self._beliefs.accusation(target)
        first = () if accusation is None else (accusation,)
        for helper in helpers:
            self._post(effects, helper.peer, PingReq(indirect, target.peer), first)

    def _fail(self, failed: Round, now: float, effects: Effects) -> None:
        """Count a silence: with the helpers' nacks against the target, without against myself."""
        self._end(failed)
        self.counters.failures += 1
        self._beliefs.doubt_self(len(failed.waiting) if failed.helpers else 1)
        member = failed.member
        known = member.is_there and member.incarnation == failed.incarnation
        if known and not self.observing:
            self._suspect(member, now, effects)

    def _suspect(self, member: Member, now: float, effects: Effects) -> None:
        if self._beliefs.suspect(member, self.me, now, effects):
            self._probe(member, now, effects)

    def _end(self, ended: Round) -> None:
        self._rounds.close(ended)
        if ended.member.path is not None:
            ended.member.path.probing = False

    def _hear(
        self,
        source: PeerId,
        message: Message,
        plea: tuple[Update, ...],
        now: float,
        effects: Effects,
        reliable: bool,
    ) -> None:
        """Take in a message; a plea, if there is one, goes with the answer or by itself."""
        match message:
            case Ping():
                if self._hear_ping(source, message, plea, effects, reliable):
                    plea = ()
            case PingReq():
                self._forward(source, message, now, effects)
            case Ack():
                self._hear_ack(source, message, now, effects)
            case Nack():
                self._hear_nack(source, message)
            case Gossip():
                pass
            case _:
                assert_never(message)
        if plea:
            self._post(effects, source, Gossip(), plea)

    def _hear_ping(
        self,
        source: PeerId,
        ping: Ping,
        plea: tuple[Update, ...],
        effects: Effects,
        reliable: bool,
    ) -> bool:
        """Answer a ping, if it was meant for this peer."""
        if ping.target != self.me:
            self.counters.ignored += 1
            return False
        ack = Ack(ping.sequence, self.coordinates.mine)
        self._post(effects, source, ack, plea, reliable=reliable)
        return True

    def _hear_ack(self, source: PeerId, ack: Ack, now: float, effects: Effects) -> None:
        awaited = self._rounds.get(ack.sequence)
        if isinstance(awaited, Round) and awaited.may_be_answered_by(source, ack.sequence):
            if ack.sequence == awaited.direct and awaited.sent_at is not None:
                self._measure(awaited.member, now - awaited.sent_at, ack, now)
            suspicion = awaited.member.suspicion
            answered = source == awaited.member.peer
            if answered and suspicion is not None and awaited.began >= suspicion.since:
                self._beliefs.clear(awaited.member, now, effects)
            self._end(awaited)
            self.counters.acks += 1
            self._beliefs.doubt_self(-1)
        elif isinstance(awaited, Forward) and source == awaited.member.peer:
            if awaited.sent_at is not None:
                self._measure(awaited.member, now - awaited.sent_at, ack, now)
            self._rounds.close_forward(awaited)
            about = self._beliefs.queue.about(source)
            self._post(effects, awaited.source, Ack(awaited.theirs, None), tuple(about))
        else:
            self.counters.ignored += 1

    def _hear_nack(self, source: PeerId, nack: Nack) -> None:
        awaited = self._rounds.get(nack.sequence)
        if isinstance(awaited, Round) and source in awaited.waiting:
            awaited.waiting.remove(source)
        else:
            self.counters.ignored += 1

    def _measure(self, member: Member, rtt_s: float, ack: Ack, now: float) -> None:
        path = member.path = member.path or Path()
        path.rtt, path.measured_at = with_sample(path.rtt, rtt_s), now
        self.counters.samples += 1
        if ack.coordinate is not None:
            self.coordinates.observe(member.peer, ack.coordinate, rtt_s)

    # helping others

    def _forward(self, source: PeerId, request: PingReq, now: float, effects: Effects) -> None:
        if request.target == self.me:
            self._post(effects, source, Ack(request.sequence, None))
            return
        member = self._roster.get(request.target)
        if member is None:
            self._post(effects, source, Nack(request.sequence))
        elif self._rounds.may_forward(source):
            timeout = self._timeouts.nack(member)
            begun = self._rounds.forward(source, request.sequence, member, timeout, now)
            self._timers.add(begun)
            self._post(effects, member.peer, Ping(begun.sequence, member.peer))
        else:
            self.counters.ignored += 1

    def _be_late_forward(self, late: Forward, now: float, effects: Effects) -> None:
        if late.nacked:
            self._rounds.close_forward(late)
            return
        late.nacked = True
        late.deadline = now + FORWARD_KEPT_S * self._knobs.timeout_ceiling_s
        self._timers.add(late)
        self._post(effects, late.source, Nack(late.theirs))

    # telling

    def _gossip(self, now: float, effects: Effects) -> None:
        if now < self._next_gossip:
            return
        self._last_gossip, self._next_gossip = now, inf
        since = now - self._knobs.gossip_to_dead_s
        for member in self._roster.audience(self._knobs.gossip_fanout, since):
            if self._beliefs.queue:
                self._post(effects, member.peer, Gossip())

    def _knock(self, now: float, effects: Effects) -> None:
        """Ping somebody dead: it, or the other half of the network, may be back."""
        if now < self._next_knock:
            return
        self._next_knock = inf
        member = self._roster.some_dead()
        if member is not None and not self.observing:
            self._probe(member, now, effects)

    def _post(
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
        accusation = None if member is None else self._beliefs.accusation(member)
        if accusation is not None:
            first = (accusation, *first)
        room = room_beside(message) - sum(update.SIZE for update in first)
        news = self._beliefs.queue.take(room, self._beliefs.repeats, first)
        effects.datagrams.append(Datagram(to, message, (*first, *news), reliable))

    def _answer_after_goodbye(
        self, source: PeerId, message: Message, effects: Effects, reliable: bool
    ) -> None:
        if isinstance(message, Ping) and self._goodbye is not None:
            ack = Ack(message.sequence, None)
            self._post(effects, source, ack, (self._goodbye,), reliable=reliable)

    def _armed(self, now: float, effects: Effects) -> Effects:
        """Return `effects`, with every clock set that has a reason to run now."""
        if self._goodbye is not None:
            return effects
        for suspicion in self._beliefs.suspicions:
            self._timers.add(suspicion)
        self._beliefs.suspicions.clear()
        if any(change.state is MemberState.ALIVE for change in effects.changes):
            interval = self._knobs.probe_interval_s
            if self._last_probe == -inf:
                self._last_probe = now - interval * self._rng.random()
            self._next_probe = min(self._next_probe, max(now, self._last_probe + interval))
        if self._next_gossip == inf and self._beliefs.queue and self._roster.size > 1:
            self._next_gossip = max(now, self._last_gossip + self._knobs.gossip_interval_s)
        if self._next_knock == inf and self._roster.any_dead:
            self._next_knock = now + self._knobs.reconnect_interval_s
        return effects
