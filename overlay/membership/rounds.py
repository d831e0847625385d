"""Probes under way: this peer's own rounds, and the pings that it sends for others.

A round begins with a direct ping. Without an answer in time, helpers are asked to ping the target,
and it is pinged once more over a stream, since only the way of datagrams may be broken. Only if
nothing of that brings an answer has the round failed. Each ping has a sequence of its own, so that
it is clear what an answer answers, and an RTT sample is never ambiguous (as in Karn's algorithm).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from overlay.coordinates import Coordinates, RttGuess
from overlay.membership.knobs import Knobs
from overlay.membership.roster import Member
from overlay.names import PeerId

MAX_ROUNDS = 256
"""Own rounds at once. In the ordinary way there are about eight; more when a site is cut off."""

MAX_FORWARDS = 1024
"""Pings for others at once; a request beyond that is not answered."""

MAX_FORWARDS_PER_SOURCE = 32
"""So that one peer cannot take all of them: it has four times fewer rounds under way."""

INDIRECT_CEILING = 1.5
"""An indirect answer goes two ways, which share what processing takes."""

NACK_SHARE = 0.8
"""Of the time that a helper gives its ping: its nack is to reach the requester in time (Lifeguard
section IV-A)."""

LEAST_SLACK_S = 0.05
"""On top of a smoothed RTT: on a line that never varied until now, four variations are nothing."""


@dataclass(slots=True, eq=False)
class Round:
    """One round of this peer's own probes.

    Attributes:
        incarnation: of the target when the round began; the round says nothing of a later one.
        sent_at: time of the direct ping; None if its answer is no RTT sample.
        indirect: sequence of the requests to helpers; None while only the direct ping is out.
        waiting: those of the helpers that have not answered at all.
    """

    member: Member
    incarnation: int
    began: float
    deadline: float
    direct: int
    sent_at: float | None
    reliable: int | None = None
    indirect: int | None = None
    helpers: tuple[PeerId, ...] = ()
    waiting: list[PeerId] = field(default_factory=list)

    def shift(self, seconds: float) -> None:
        """Take time in which nothing could be heard out of it."""
        self.began += seconds
        self.deadline += seconds
        self.sent_at = None

    def may_be_answered_by(self, source: PeerId, sequence: int) -> bool:
        """Whether an answer of that sequence is `source`'s to give."""
        if sequence == self.indirect:
            return source in self.helpers
        return source == self.member.peer

    def sequences(self) -> list[int]:
        """Return what its answers may carry."""
        return [s for s in (self.direct, self.reliable, self.indirect) if s is not None]


@dataclass(slots=True, eq=False)
class Forward:
    """A ping for another peer."""

    source: PeerId
    theirs: int
    member: Member
    sequence: int
    deadline: float
    sent_at: float | None
    nacked: bool = False

    def shift(self, seconds: float) -> None:
        """Take time in which nothing could be heard out of it."""
        self.deadline += seconds
        self.sent_at = None


class Rounds:
    """What answers are awaited, by sequence.

    Args:
        first_sequence: is not used itself.
        late_s: how long after a direct ping its answer is still an RTT sample, though its round
            ended by another one: as long as it would be if the round had gone on.
    """

    def __init__(self, first_sequence: int, late_s: float) -> None:
        self._sequence = first_sequence
        self._late_s = late_s
        self._awaited: dict[int, Round | Forward] = {}
        self._late: dict[int, tuple[Member, float]] = {}
        self._rounds = 0
        self._forwards: dict[PeerId, int] = {}
        self._forwarded = 0

    def next_sequence(self) -> int:
        """Return a sequence that was not used before."""
        self._sequence += 1
        return self._sequence

    def get(self, sequence: int) -> Round | Forward | None:
        """Return what awaits an answer of that sequence."""
        return self._awaited.get(sequence)

    @property
    def may_begin(self) -> bool:
        """Whether another round may be under way."""
        return self._rounds < MAX_ROUNDS

    def may_forward(self, source: PeerId) -> bool:
        """Whether another ping may be sent for `source`."""
        mine = self._forwards.get(source, 0)
        return mine < MAX_FORWARDS_PER_SOURCE and self._forwarded < MAX_FORWARDS

    def begin(self, member: Member, timeout_s: float, now: float) -> Round:
        """Open a round."""
        direct = self.next_sequence()
        opened = Round(member, member.incarnation, now, now + timeout_s, direct, sent_at=now)
        self._awaited[direct] = opened
        self._rounds += 1
        return opened

    def ask(self, opened: Round, helpers: Iterable[PeerId], deadline: float) -> tuple[int, int]:
        """Go over to the second stage; return the sequences of the ping and of the requests."""
        reliable, indirect = self.next_sequence(), self.next_sequence()
        opened.reliable, opened.indirect = reliable, indirect
        opened.helpers = tuple(helpers)
        opened.waiting = list(opened.helpers)
        opened.deadline = deadline
        self._awaited[reliable] = self._awaited[indirect] = opened
        return reliable, indirect

    def close(self, ended: Round) -> None:
        """End a round; of later answers only the direct one tells something: see `take_late`."""
        for sequence in ended.sequences():
            self._awaited.pop(sequence, None)
        if ended.sent_at is not None:
            self._late[ended.direct] = ended.member, ended.sent_at
            if len(self._late) > MAX_ROUNDS:
                del self._late[next(iter(self._late))]
        ended.deadline = inf
        self._rounds -= 1

    def take_late(self, source: PeerId, sequence: int, now: float) -> tuple[Member, float] | None:
        """Return whom a direct ping was for and when it was sent, if its round is over.

        Where a line gets slow, helpers on better ones answer first, and without this the line would
        be held for as quick as it was.
        """
        member, sent_at = self._late.get(sequence, (None, 0.0))
        if member is None or member.peer != source:
            return None
        del self._late[sequence]
        return (member, sent_at) if now - sent_at <= self._late_s else None

    def forget_late(self) -> None:
        """Take no late answer for a sample that was on its way until now."""
        self._late.clear()

    def forward(
        self, source: PeerId, theirs: int, member: Member, timeout_s: float, now: float
    ) -> Forward:
        """Open a ping for `source`."""
        sequence = self.next_sequence()
        opened = Forward(source, theirs, member, sequence, now + timeout_s, sent_at=now)
        self._awaited[sequence] = opened
        self._forwards[source] = self._forwards.get(source, 0) + 1
        self._forwarded += 1
        return opened

    def close_forward(self, ended: Forward) -> None:
        """End a ping for another."""
        self._awaited.pop(ended.sequence, None)
        ended.deadline = inf
        self._forwarded -= 1
        left = self._forwards.pop(ended.source) - 1
        if left:
            self._forwards[ended.source] = left


class Timeouts:
    """How long answers are given, in seconds, from what is measured or estimated of RTTs."""

    def __init__(self, knobs: Knobs, coordinates: Coordinates) -> None:
        self._floor = knobs.timeout_floor_s
        self._ceiling = knobs.timeout_ceiling_s
        self._coordinates = coordinates

    def direct(self, member: Member) -> float:
        """Return the time for a ping: SRTT + 4 · RTTVAR (RFC 6298), within floor and ceiling."""
        rtt = None if member.path is None else member.path.rtt
        if rtt is None:
            return self._of_guess(self._coordinates.estimate(member.peer))
        slack = max(4 * rtt.rtt_variation, LEAST_SLACK_S)
        return min(max(rtt.smoothed_rtt + slack, self._floor), self._ceiling)

    def indirect(self, helpers: Iterable[Member], target: Member) -> float:
        """Return the time for the slowest of `helpers`: a way to it, and its own ping."""
        slowest = self.direct(target)
        for helper in helpers:
            ping = self._of_guess(self._coordinates.between(helper.peer, target.peer))
            slowest = max(slowest, self._way(helper) + ping)
        return min(slowest, INDIRECT_CEILING * self._ceiling)

    def nack(self, target: Member) -> float:
        """Return the time for a ping on behalf of another peer."""
        return NACK_SHARE * self.direct(target)

    def _way(self, member: Member) -> float:
        rtt = None if member.path is None else member.path.rtt
        if rtt is not None:
            return rtt.smoothed_rtt
        guess = self._coordinates.estimate(member.peer)
        return self._ceiling if guess is None else guess.rtt_s + guess.error_s

    def _of_guess(self, guess: RttGuess | None) -> float:
        if guess is None:
            return self._ceiling
        return min(max(2 * guess.rtt_s + guess.error_s, self._floor), self._ceiling)
