"""Who is there: SWIM with Lifeguard's refinements.

Every peer probes another one now and then, in a random order. One that does not answer is probed
through others, so that a broken line between two peers is no evidence; if that fails, it is
*suspect*, and everybody hears so. A suspect that does not refute is *dead*, and with it everything
it published. What is news rides on whatever is sent anyway, and on a few datagrams besides. The
load of a peer does not depend on the size of the network. (Das, Gupta, Motivala, "SWIM", 2002;
Dadgar, Phillips, Currey, "Lifeguard", 2018; and memberlist, which is both as a library.)

    prober.py      whom to probe when, and what follows from an answer or none
    rounds.py      when an answer is late, and what it answers
    beliefs.py     what an update changes
    suspicion.py   how long a suspect has
    refuting.py    how this peer answers what is said of it, and when it doubts itself
    telling.py     what rides on a datagram, and who is told news
    broadcasts.py  which news come first, and how often they are told
    roster.py      the table of members, and whose turn it is

From Lifeguard is the doubt in oneself: a peer whose probes fail without even the helpers' nacks, or
that has to refute, is probably slow itself. Each of these raises its *health score*, each answer
lowers it, and all its probing takes 1 + score times as long.

Where this differs from the papers: whoever begins to suspect a peer begins another round of probes
at once, which tells it so; an indirect probe comes with a ping over a stream, as memberlist has it;
and see `beliefs.py` and `Telling.told_of`.

Who hears nobody at all for a round of probes is cut off itself, and suspects everybody at once.

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
from overlay.membership.beliefs import Beliefs, note_unknown
from overlay.membership.knobs import Knobs
from overlay.membership.messages import (
    Ack,
    Effects,
    Gossip,
    Left,
    MemberState,
    Message,
    Nack,
    Ping,
    PingReq,
    Update,
)
from overlay.membership.prober import Clock, Prober
from overlay.membership.refuting import Myself, Sign, Verify
from overlay.membership.rounds import Forward, Round
from overlay.membership.suspicion import Suspicion
from overlay.membership.telling import Telling
from overlay.names import PeerId
from overlay.rtt import RttEstimate


class Membership:
    """The states and RTTs of all peers.

    Attributes:
        counters: how often things happened.
        coordinates: fed with each RTT sample.
        vouched: peers whose silence says nothing, nor what others say of it.
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
        self._me = Myself(me, incarnation, knobs.max_health, sign=sign, verify=verify)
        self._beliefs = Beliefs(self._me, knobs, rng)
        self._roster = self._beliefs.roster
        self._telling = Telling(self._me, self._beliefs, knobs)
        self._clock = Clock()
        self._prober = Prober(
            self._me,
            self._beliefs,
            self._telling,
            knobs,
            coordinates=coordinates,
            clock=self._clock,
            rng=rng,
        )
        self._goodbye: Left | None = None
        self.counters = self._me.counters
        self.coordinates = coordinates
        self.vouched = self._beliefs.vouched

    @property
    def incarnation(self) -> int:
        """Return this peer's own incarnation."""
        return self._me.incarnation

    @property
    def health(self) -> int:
        """Return Lifeguard's local health score: 0 is well, 8 (`max_health`) is worst."""
        return self._me.health

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
        """Return the measured RTT to `peer`, if a direct ping was ever answered."""
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
        """Return what push-pull says of `peers`; a `Gossip` message carries it."""
        return self._telling.told_of(peers)

    def next_wake(self) -> float:
        """Return when `tick` has something to do next; `inf` if never."""
        prober = self._prober
        gossip = self._telling.next_gossip
        return min(self._clock.next(), prober.next_probe, prober.next_knock, gossip)

    def observe(self, observing: bool) -> None:
        """Say whether this peer is a guest: one that nobody knows probes and accuses nobody."""
        self._prober.observing = observing

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
        """Take in a datagram.

        Args:
            source: who sent it, authenticated.
            message: what it is.
            updates: what rides on it.
            now: the time.
            reliable: it came over a stream; an ack goes back the same way.
        """
        effects = Effects()
        if self._goodbye is not None:
            if isinstance(message, Ping):
                ack = Ack(message.sequence, None)
                self._telling.post(effects, source, ack, (self._goodbye,), reliable=reliable)
            return effects
        if source not in self.vouched:
            self._prober.heard_at = now
        if self._roster.get(source) is None:
            note_unknown(effects, source)
        heard = self._beliefs.hear(updates, now, effects)
        plea = (self._me.alive(),) if heard.accused else ()
        if isinstance(message, Ping) and message.target == self._me.peer:
            ack = Ack(message.sequence, self.coordinates.mine)
            self._telling.post(effects, source, ack, plea, reliable=reliable)
        else:
            self._hear(source, message, now, effects)
            if plea:
                self._telling.post(effects, source, Gossip(), plea)
        for member in heard.doubtful:
            self._prober.probe_doubtful(member, now, effects)
        return self._armed(now, effects)

    def tick(self, now: float) -> Effects:
        """Do what is due at `now`."""
        effects = Effects()
        if self._goodbye is not None:
            return effects
        for timed in self._clock.due(now):
            match timed:
                case Suspicion():
                    self._beliefs.expire(timed, now, effects)
                case Round():
                    self._prober.be_late(timed, now, effects)
                case Forward():
                    self._prober.be_late_forward(timed, now, effects)
                case _:
                    assert_never(timed)
        self._prober.probe_next(now, effects)
        self._prober.knock(now, effects)
        self._telling.arm(now)
        self._telling.gossip(now, effects)
        return self._armed(now, effects)

    def cut(self, peer: PeerId, now: float) -> Effects:
        """Take in that the last connection to `peer` ended: it is suspect, and probed at once."""
        effects = Effects()
        self.vouched.discard(peer)
        member = self._roster.get(peer)
        if self._goodbye is None and member is not None and member.is_there:
            self._prober.suspect(member, now, effects)
        return self._armed(now, effects)

    def probe(self, peer: PeerId, now: float) -> Effects:
        """Probe `peer` now, before its turn."""
        effects = Effects()
        member = self._roster.get(peer)
        if self._goodbye is None and member is not None:
            self._prober.probe(member, now, effects)
        return self._armed(now, effects)

    def leave(self, now: float) -> Effects:  # noqa: ARG002  (the time, as in every event)
        """Say goodbye; from now on nothing is probed or refuted, and pings are told so too."""
        effects = Effects()
        if self._goodbye is None:
            self._goodbye = self._me.left()
            self._telling.say_goodbye(self._goodbye, effects)
            self._clock.clear()
            self._prober.next_probe = self._prober.next_knock = self._telling.next_gossip = inf
        return effects

    def stood_still(self, seconds: float) -> None:
        """Take time in which this process itself did not run out of everybody's silence."""
        self._clock.shift(seconds)
        self._prober.stood_still(seconds)

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of `peer`."""
        self._beliefs.forget(peer)
        self.coordinates.forget(peer)

    def _hear(self, source: PeerId, message: Message, now: float, effects: Effects) -> None:
        match message:
            case Ping():  # meant for somebody else
                self.counters.ignored += 1
            case PingReq():
                self._prober.forward(source, message, now, effects)
            case Ack():
                self._prober.hear_ack(source, message, now, effects)
            case Nack():
                self._prober.hear_nack(source, message)
            case Gossip():
                pass
            case _:
                assert_never(message)

    def _armed(self, now: float, effects: Effects) -> Effects:
        """Return `effects`, with every clock set that has a reason to run now."""
        if self._goodbye is None:
            for suspicion in self._beliefs.moved:
                self._clock.add(suspicion)
            self._beliefs.moved.clear()
            newcomers = any(change.state is MemberState.ALIVE for change in effects.changes)
            self._prober.arm(now, newcomers=newcomers)
            self._telling.arm(now)
        return effects
