"""Probes: when the next one starts, and what follows from an answer, a late one, or none."""

import random
from math import inf

from overlay.coordinates import Coordinates
from overlay.membership.beliefs import Beliefs
from overlay.membership.knobs import Knobs
from overlay.membership.messages import Ack, Effects, Nack, Ping, PingReq
from overlay.membership.refuting import Myself
from overlay.membership.roster import Member, Path
from overlay.membership.rounds import INDIRECT_CEILING, Forward, Round, Rounds, Timeouts
from overlay.membership.suspicion import Suspicion
from overlay.membership.telling import Telling
from overlay.membership.timers import Timers
from overlay.names import PeerId
from overlay.rtt import with_sample

FORWARD_KEPT = 2
"""Timeout ceilings for which a helper still passes on an answer that comes after its nack."""

CUT_OFF_MOST = 32
"""Members suspected at once because nobody at all was heard: all in a full mesh. More would have a
large network refute for seconds, because one peer's line had failed for one."""

Clock = Timers[Round | Forward | Suspicion]


class Prober:
    """Probes members in turn, and others' targets when asked to.

    Attributes:
        next_probe: when the next member's turn is.
        next_knock: when a dead peer is pinged.
        observing: nobody is probed in turn, nor accused.
        heard_at: when somebody who is not vouched for was last heard.
    """

    def __init__(
        self,
        me: Myself,
        beliefs: Beliefs,
        telling: Telling,
        knobs: Knobs,
        *,
        coordinates: Coordinates,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.next_probe = self.next_knock = inf
        self.observing = False
        self.heard_at = -inf
        self._last_probe = -inf
        self._me = me
        self._beliefs = beliefs
        self._roster = beliefs.roster
        self._telling = telling
        self._knobs = knobs
        self._coordinates = coordinates
        self._clock = clock
        self._rng = rng
        self._timeouts = Timeouts(knobs, coordinates)
        self._rounds = Rounds(
            first_sequence=rng.getrandbits(32),
            late_s=(1 + INDIRECT_CEILING) * knobs.timeout_ceiling_s,
        )

    # beginning

    def arm(self, now: float, *, newcomers: bool) -> None:
        """Set the clocks that have a reason to run; a newcomer may have its turn before others."""
        if self.observing:
            self.next_probe = self.next_knock = inf
            return
        if newcomers:
            interval = self._knobs.probe_interval_s * (1 + self._me.health)
            if self._last_probe == -inf:  # daemons that start together do not probe together
                self._last_probe = now - interval * self._rng.random()
            self.next_probe = min(self.next_probe, max(now, self._last_probe + interval))
        if self.next_knock == inf and self._roster.any_dead:
            self.next_knock = now + self._knobs.reconnect_interval_s

    def probe_next(self, now: float, effects: Effects) -> None:
        """Probe the member whose turn it is, if it is time."""
        if now < self.next_probe:
            return
        doubt = 1 + self._me.health
        interval = self._knobs.probe_interval_s * doubt
        member, when = self._roster.next_turn(now, self._knobs.revisit_s * doubt)
        if member is None:
            self.next_probe = when if when > now else now + interval
            return
        self._last_probe = max(self.next_probe, now - interval / 2)
        self.next_probe = self._last_probe + interval
        self.probe(member, now, effects)

    def knock(self, now: float, effects: Effects) -> None:
        """Ping somebody dead, if it is time: it, or the other half of the network, may be back."""
        if now < self.next_knock:
            return
        self.next_knock = inf
        member = self._roster.some_dead()
        if member is not None:
            self.probe(member, now, effects)

    def probe(self, member: Member, now: float, effects: Effects) -> None:
        """Begin a round, if none is under way; to one that is gone only the ping is sent."""
        path = member.path = member.path or Path()
        if not member.is_there:
            path.probed_at = now
            self._ping(member, self._rounds.next_sequence(), effects)
        elif not path.probing and self._rounds.may_begin:
            path.probing, path.probed_at = True, now
            self._me.counters.probes += 1
            timeout = self._timeouts.direct(member) * (1 + self._me.health)
            begun = self._rounds.begin(member, timeout, now)
            self._clock.add(begun)
            self._ping(member, begun.direct, effects)

    def probe_doubtful(self, member: Member, now: float, effects: Effects) -> None:
        """Probe a member that may have died, unless that was done a moment ago."""
        if member.path is None or now >= member.path.probed_at + self._knobs.revisit_s:
            self.probe(member, now, effects)

    def suspect(self, member: Member, now: float, effects: Effects) -> None:
        """Suspect a member; if nobody did yet, probe it once more, which tells it so."""
        if self._beliefs.suspect(member, self._me.peer, now, effects):
            self.probe(member, now, effects)

    def _ping(self, member: Member, sequence: int, effects: Effects) -> None:
        self._telling.post(effects, member.peer, Ping(sequence, member.peer))

    # no answer in time

    def be_late(self, late: Round, now: float, effects: Effects) -> None:
        """Go over to indirect probes, or if those are late too, fail."""
        if late.member.peer in self._beliefs.vouched or not late.member.is_there:
            self._end(late)
        elif late.indirect is None:
            self._probe_indirectly(late, now, effects)
        else:
            self._fail(late, now, effects)

    def _probe_indirectly(self, late: Round, now: float, effects: Effects) -> None:
        target = late.member
        helpers = self._roster.helpers(self._knobs.indirect_probes, besides=target)
        timeout = self._timeouts.indirect(helpers, target) * (1 + self._me.health)
        reliable, indirect = self._rounds.ask(late, [m.peer for m in helpers], now + timeout)
        self._clock.add(late)
        self._telling.post(effects, target.peer, Ping(reliable, target.peer), reliable=True)
        accusation = self._telling.accusation(target)
        first = () if accusation is None else (accusation,)
        for helper in helpers:
            self._telling.post(effects, helper.peer, PingReq(indirect, target.peer), first)

    def _fail(self, failed: Round, now: float, effects: Effects) -> None:
        """Count a silence: with the helpers' nacks against the target, without against myself."""
        self._end(failed)
        self._me.counters.failures += 1
        self._me.doubt(len(failed.waiting) if failed.helpers else 1)
        if failed.member.incarnation == failed.incarnation and not self.observing:
            self.suspect(failed.member, now, effects)
            if failed.helpers and self.heard_at < failed.began:
                self._suspect_everybody(now, effects)

    def _suspect_everybody(self, now: float, effects: Effects) -> None:
        """Take in that this peer is cut off: in a whole round nobody was heard, of all its members.

        One after the other they would be found silent, ever more slowly: with each failure this
        peer doubts itself more. Meanwhile it would send requests to where none can get.
        """
        for member in self._roster.some_alive(CUT_OFF_MOST):
            if member.peer not in self._beliefs.vouched:
                self._beliefs.suspect(member, self._me.peer, now, effects)

    def _end(self, ended: Round) -> None:
        self._rounds.close(ended)
        if ended.member.path is not None:
            ended.member.path.probing = False

    # answers

    def hear_ack(self, source: PeerId, ack: Ack, now: float, effects: Effects) -> None:
        """Take in that a probe was answered."""
        awaited = self._rounds.get(ack.sequence)
        if isinstance(awaited, Round) and awaited.may_be_answered_by(source, ack.sequence):
            self._succeed(awaited, source, ack, now, effects)
        elif isinstance(awaited, Forward) and source == awaited.member.peer:
            self._measure(awaited.member, awaited.sent_at, ack, now)
            self._rounds.close_forward(awaited)
            self._telling.post(effects, awaited.source, Ack(awaited.theirs, None))
        elif (late := self._rounds.take_late(source, ack.sequence, now)) is not None:
            self._measure(*late, ack, now)
        else:
            self._me.counters.ignored += 1

    def hear_nack(self, source: PeerId, nack: Nack) -> None:
        """Take in that a helper is there, though its ping was not answered."""
        awaited = self._rounds.get(nack.sequence)
        if isinstance(awaited, Round) and source in awaited.waiting:
            awaited.waiting.remove(source)
        else:
            self._me.counters.ignored += 1

    def _succeed(
        self, answered: Round, source: PeerId, ack: Ack, now: float, effects: Effects
    ) -> None:
        if ack.sequence == answered.direct:
            self._measure(answered.member, answered.sent_at, ack, now)
            answered.sent_at = None
        suspicion = answered.member.suspicion
        itself = source == answered.member.peer
        if itself and suspicion is not None and answered.began >= suspicion.since:
            self._beliefs.clear(answered.member, now, effects)
        self._end(answered)
        self._me.counters.acks += 1
        self._me.doubt(-1)

    def _measure(self, member: Member, sent_at: float | None, ack: Ack, now: float) -> None:
        """Take a sample, unless the process stood still meanwhile or the member was forgotten."""
        if sent_at is None or self._roster.get(member.peer) is not member:
            return
        path = member.path = member.path or Path()
        path.rtt, path.measured_at = with_sample(path.rtt, now - sent_at), now
        self._me.counters.samples += 1
        if ack.coordinate is not None:
            self._coordinates.observe(member.peer, ack.coordinate, now - sent_at)

    def stood_still(self, seconds: float) -> None:
        """Take time in which nobody could be heard out of what is awaited."""
        self.heard_at += seconds
        self._rounds.forget_late()

    # helping others

    def forward(self, source: PeerId, request: PingReq, now: float, effects: Effects) -> None:
        """Ping a target for `source`, or say at once that there is no way to do so."""
        member = self._roster.get(request.target)
        if request.target == self._me.peer:
            self._telling.post(effects, source, Ack(request.sequence, None))
        elif member is None:
            self._telling.post(effects, source, Nack(request.sequence))
        elif self._rounds.may_forward(source):
            timeout = self._timeouts.nack(member)
            begun = self._rounds.forward(source, request.sequence, member, timeout, now)
            self._clock.add(begun)
            self._ping(member, begun.sequence, effects)
        else:
            self._me.counters.ignored += 1

    def be_late_forward(self, late: Forward, now: float, effects: Effects) -> None:
        """Say that there is no answer yet; some time later, stop waiting for it."""
        if late.nacked:
            self._rounds.close_forward(late)
            return
        late.nacked = True
        late.deadline = now + FORWARD_KEPT * self._knobs.timeout_ceiling_s
        self._clock.add(late)
        self._telling.post(effects, late.source, Nack(late.theirs))
