"""Who is there: membership over a full mesh of connected peers, by direct probes.

Every peer probes every other once a period. A probe that stays unanswered past its timeout, or a
connection that is cut, makes the peer *suspect*: its instances get no new request while there is
an alternative. A suspect that says nothing for `suspicion_s` is *dead*, and with it everything it
published. Anything heard from a suspect makes it alive again. A peer that leaves says so.

With the constants below a machine whose link is cut is dead to everybody within
period + timeout + suspicion = 1.0 + 0.5 + 1.3 = 2.8 s, and 2 ticks of the shell for the probe that
went out late and the end that was seen late: 2.9 s, inside the promised 3 s.

Two things are no evidence against a peer. Time in which this process itself did not run is taken
out of everybody's silence. And a peer on the same machine is judged by its connection alone: there
is no cable to be cut between the two, and a process that waits for a busy core is not gone.

The core is pure: what was heard and the time go in, probes to send and changes come out. The
shell in `mesh.py` knows nothing but this class's methods, which is the seam for other protocols.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from overlay.names import PeerId
from overlay.rtt import RttEstimate, probe_timeout, with_sample

PROBE_PERIOD_S = 1.0
"""Seconds between two probes of the same peer; also how often an RTT sample is taken."""

PROBE_TIMEOUT_FLOOR_S = 0.25
"""A busy machine may answer a local probe late without being gone."""

PROBE_TIMEOUT_CEILING_S = 0.5
"""Above any RTT on Earth's networks plus scheduling; a longer one is taken for silence."""

SUSPICION_S = 1.3
"""Seconds of silence that a suspect is given."""


class MemberState(StrEnum):
    """What is believed of a peer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Change:
    """A peer is now in another state."""

    peer: PeerId
    state: MemberState


@dataclass(frozen=True, slots=True)
class Probe:
    """Send this probe; answer it with `acked` and the same sequence number."""

    peer: PeerId
    sequence: int


@dataclass(slots=True)
class _Member:
    state: MemberState
    since: float
    next_probe: float
    rtt: RttEstimate | None = None
    sequence: int = 0
    sent_at: float | None = None


@dataclass(slots=True)
class Membership:
    """The states and RTTs of all peers that this one is or was connected to.

    Attributes:
        local: peers on this machine, whose silence says nothing.
    """

    local: set[PeerId] = field(default_factory=set)
    _members: dict[PeerId, _Member] = field(default_factory=dict)

    def heard(self, peer: PeerId, now: float) -> list[Change]:
        """Take in that `peer` connected or said anything."""
        member = self._members.get(peer)
        if member is None:
            self._members[peer] = _Member(MemberState.ALIVE, now, next_probe=now)
            return [Change(peer, MemberState.ALIVE)]
        if member.state is MemberState.ALIVE:
            return []
        if now >= self._silent_since(member):
            member.sent_at = None  # this word counts more than that silence
        if member.state is not MemberState.SUSPECT:
            member.next_probe, member.sent_at = now, None
        return [self._enter(peer, member, MemberState.ALIVE, now)]

    def acked(self, peer: PeerId, sequence: int, now: float) -> list[Change]:
        """Take in the answer to a probe: an RTT sample, if it is the latest probe's.

        One that crossed the peer's goodbye does not bring it back.
        """
        member = self._members.get(peer)
        if member is None or member.state is MemberState.LEFT:
            return []
        if member.sent_at is not None and sequence == member.sequence:
            member.rtt = with_sample(member.rtt, now - member.sent_at)
            member.sent_at = None
        return self.heard(peer, now)

    def cut(self, peer: PeerId, now: float) -> list[Change]:
        """Take in that the last connection to `peer` ended."""
        member = self._members.get(peer)
        if member is None or member.state is not MemberState.ALIVE:
            return []
        member.sent_at = None
        return [self._enter(peer, member, MemberState.SUSPECT, now)]

    def left(self, peer: PeerId, now: float) -> list[Change]:
        """Take in that `peer` said goodbye."""
        member = self._members.get(peer)
        if member is None or member.state is MemberState.LEFT:
            return []
        return [self._enter(peer, member, MemberState.LEFT, now)]

    def tick(self, now: float) -> tuple[list[Probe], list[Change]]:
        """Return the probes that are due at `now` and what changed by the passing of time."""
        probes: list[Probe] = []
        changes: list[Change] = []
        for peer, member in self._members.items():
            if member.state in {MemberState.DEAD, MemberState.LEFT}:
                continue
            silent_since = inf if peer in self.local else self._silent_since(member)
            if member.state is MemberState.ALIVE and now >= silent_since:
                changes.append(self._enter(peer, member, MemberState.SUSPECT, silent_since))
            elif member.state is MemberState.SUSPECT and now >= member.since + SUSPICION_S:
                changes.append(self._enter(peer, member, MemberState.DEAD, now))
                continue
            if now >= member.next_probe:
                probes.append(self._probe(peer, member, now))
        return probes, changes

    def stood_still(self, seconds: float) -> None:
        """Take time in which this process itself did not run out of everybody's silence."""
        for member in self._members.values():
            if member.sent_at is not None:
                member.sent_at += seconds
            if member.state is MemberState.SUSPECT:
                member.since += seconds

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of `peer`."""
        self._members.pop(peer, None)
        self.local.discard(peer)

    def state(self, peer: PeerId) -> MemberState:
        """Return what is believed of `peer`; one never heard of counts as dead."""
        member = self._members.get(peer)
        return MemberState.DEAD if member is None else member.state

    def rtt(self, peer: PeerId) -> RttEstimate | None:
        """Return the measured RTT to `peer`, if a probe was ever answered."""
        member = self._members.get(peer)
        return None if member is None else member.rtt

    def _silent_since(self, member: _Member) -> float:
        if member.sent_at is None:
            return inf
        timeout = probe_timeout(member.rtt, PROBE_TIMEOUT_FLOOR_S, PROBE_TIMEOUT_CEILING_S)
        return member.sent_at + timeout

    @staticmethod
    def _probe(peer: PeerId, member: _Member, now: float) -> Probe:
        member.sequence += 1
        member.sent_at = now
        member.next_probe = now + PROBE_PERIOD_S
        return Probe(peer, member.sequence)

    @staticmethod
    def _enter(peer: PeerId, member: _Member, state: MemberState, now: float) -> Change:
        member.state, member.since = state, now
        return Change(peer, state)
