"""Probing: whom, when, and what follows. Updates are in `test_swim_updates.py`."""

import random
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from overlay.coordinates import Coordinate, RttGuess
from overlay.membership import (
    Ack,
    Alive,
    Change,
    Datagram,
    Dead,
    Effects,
    Gossip,
    Left,
    Membership,
    MemberState,
    Message,
    Nack,
    Ping,
    PingReq,
    Suspect,
    prober,
    rounds,
)
from overlay.membership.knobs import Knobs
from overlay.membership.testing import EPOCH, core, pretend_signature
from overlay.names import PeerId

ALIVE, SUSPECT, DEAD, LEFT = MemberState
ME, A, B, C, D, E = (PeerId(name) for name in ["me", *"abcde"])
LAN = replace(Knobs.lan(), gossip_fanout=0)
"""What is told is tested elsewhere."""

FLOOR, CEILING = LAN.timeout_floor_s, LAN.timeout_ceiling_s
HERE = Coordinate((0.0,) * 8, 1.0, 0.0, 0.0)


def member_of(*others: PeerId, knobs: Knobs = LAN, seed: int = 0) -> Membership:
    me = core(ME, knobs, random.Random(seed))
    for other in others:
        me.learn(other, EPOCH, 0.0)
    return me


def probe(me: Membership, peer: PeerId, now: float) -> int:
    """Begin a round; return its sequence."""
    (datagram,) = me.probe(peer, now).datagrams
    return sequence_of(datagram)


def sequence_of(datagram: Datagram) -> int:
    assert isinstance(datagram.message, Ping | PingReq | Ack | Nack)
    return datagram.message.sequence


def said(effects: Effects, kind: type[Message]) -> list[Datagram]:
    return [datagram for datagram in effects.datagrams if isinstance(datagram.message, kind)]


def measured(me: Membership, peer: PeerId, now: float, rtt: float) -> None:
    me.receive(peer, Ack(probe(me, peer, now), None), (), now + rtt)


def tick_until(me: Membership, end: float) -> list[tuple[float, Effects]]:
    """Tick whenever it is asked for, up to `end`."""
    happened = []
    while (now := me.next_wake()) <= end:
        happened.append((now, me.tick(now)))
    return happened


# whose turn, and how often


def test_who_is_alone_has_nothing_to_do() -> None:
    me = member_of()
    assert me.next_wake() == inf
    assert me.tick(1.0) == Effects()
    assert list(me.members()) == []


def test_a_stranger_counts_as_dead_and_has_no_rtt() -> None:
    me = member_of()
    assert me.state(A) is DEAD
    assert me.rtt(A) is None
    assert me.rtt_age(A, 1.0) is None


def test_a_single_other_is_probed_once_each_revisit() -> None:
    me = member_of(A)
    times: list[float] = []
    while len(times) < 4:
        now = me.next_wake()
        for datagram in said(me.tick(now), Ping):
            times.append(now)
            me.receive(A, Ack(sequence_of(datagram), None), (), now + 0.01)
    assert times[0] < LAN.probe_interval_s
    assert [after - before for before, after in pairwise(times)] == pytest.approx([1.0] * 3)


def test_many_others_are_probed_in_turn_one_each_interval() -> None:
    others = [PeerId(f"p{number}") for number in range(50)]
    me = member_of(*others)
    asked: list[tuple[float, PeerId]] = []
    while len(asked) < 50:
        now = me.next_wake()
        for datagram in said(me.tick(now), Ping):
            asked.append((now, datagram.to))
            me.receive(datagram.to, Ack(sequence_of(datagram), None), (), now)
    assert sorted(peer for _, peer in asked) == sorted(others)
    assert asked[-1][0] - asked[0][0] == pytest.approx(49 * LAN.probe_interval_s)


def test_daemons_that_start_together_do_not_probe_together() -> None:
    firsts = {member_of(A, seed=seed).next_wake() for seed in range(10)}
    assert len(firsts) == 10
    assert all(0 < first < LAN.probe_interval_s for first in firsts)


def test_a_late_tick_probes_once_and_does_not_make_up_for_what_it_missed() -> None:
    others = [PeerId(f"p{number}") for number in range(50)]
    me = member_of(*others)
    assert len(said(me.tick(100.0), Ping)) == 1
    assert said(me.tick(100.0), Ping) == []
    assert me.next_wake() >= 100.0 + LAN.probe_interval_s / 2


def doubting(*others: PeerId) -> Membership:
    """Return a member whose health score is 1."""
    me = member_of(*others)
    me.receive(others[0], Gossip(), (Suspect(ME, EPOCH, others[0]),), 0.0)
    assert me.health == 1
    return me


def test_doubt_doubles_timeouts() -> None:
    me = doubting(A, B)
    probe(me, B, 10.0)
    assert said(me.tick(10.0 + 2 * CEILING - 0.001), PingReq) == []
    asked_at = 10.0 + 2 * CEILING
    assert len(said(me.tick(asked_at), PingReq)) == 1
    suspect_at = asked_at + 2 * rounds.INDIRECT_CEILING * CEILING
    assert Change(B, SUSPECT) not in me.tick(suspect_at - 0.001).changes
    assert Change(B, SUSPECT) in me.tick(suspect_at).changes


def test_doubt_doubles_intervals() -> None:
    others = [PeerId(f"p{number}") for number in range(50)]
    times = [
        at
        for at, e in tick_until(doubting(*others), 1.9)
        if any(not d.reliable for d in said(e, Ping))
    ]
    gaps = [after - before for before, after in pairwise(times)]
    assert len(gaps) >= 3
    assert gaps == pytest.approx([2 * LAN.probe_interval_s] * len(gaps))


# an answer


def test_the_answer_to_a_direct_ping_is_a_sample() -> None:
    me = member_of(A)
    theirs = replace(HERE, error=0.2)
    me.receive(A, Ack(probe(me, A, 1.0), theirs), (), 1.02)
    estimate = me.rtt(A)
    assert estimate is not None
    assert estimate.latest == pytest.approx(0.02)
    assert me.rtt_age(A, 3.02) == pytest.approx(2.0)
    assert me.samples == me.counters.acks == 1
    assert me.coordinates.of(A) == theirs


def test_a_second_answer_one_of_another_peer_and_one_never_asked_for_are_ignored() -> None:
    me = member_of(A, B)
    sequence = probe(me, A, 1.0)
    me.receive(B, Ack(sequence, HERE), (), 1.01)
    me.receive(A, Ack(sequence + 1, HERE), (), 1.01)
    assert me.samples == 0
    me.receive(A, Ack(sequence, HERE), (), 1.02)
    me.receive(A, Ack(sequence, HERE), (), 1.5)
    assert me.samples == 1
    assert me.counters.ignored == 3


def test_a_ping_is_answered_with_its_sequence_the_coordinate_and_the_way_it_came() -> None:
    me = member_of(A)
    for reliable in (False, True):
        effects = me.receive(A, Ping(7, ME), (), 1.0, reliable=reliable)
        assert effects.datagrams == [Datagram(A, Ack(7, me.coordinates.mine), (), reliable)]


def test_a_ping_for_somebody_else_is_ignored() -> None:
    me = member_of(A)
    assert me.receive(A, Ping(7, B), (), 1.0) == Effects()
    assert me.counters.ignored == 1


def test_a_stranger_is_answered_and_its_record_wanted() -> None:
    me = member_of()
    effects = me.receive(A, Ping(7, ME), (), 1.0)
    assert len(said(effects, Ack)) == 1
    assert effects.unknown == [A]
    assert me.state(A) is DEAD


# no answer


def test_an_unmeasured_peer_is_given_the_ceiling_and_a_near_one_the_floor() -> None:
    for rtt, timeout in ((None, CEILING), (0.001, FLOOR), (0.1, 0.3), (0.4, CEILING)):
        me = member_of(A, B)
        if rtt is not None:
            measured(me, A, 0.0, rtt)
        probe(me, A, 10.0)
        assert said(me.tick(10.0 + timeout - 0.001), PingReq) == []
        assert len(said(me.tick(10.0 + timeout), PingReq)) == 1


def test_a_steady_line_still_has_some_slack() -> None:
    me = member_of(A, B)
    for number in range(60):
        measured(me, A, float(number), 0.25)
    probe(me, A, 100.0)
    assert said(me.tick(100.0 + 0.25 + rounds.LEAST_SLACK_S - 0.001), PingReq) == []
    assert len(said(me.tick(100.0 + 0.25 + rounds.LEAST_SLACK_S + 0.001), PingReq)) == 1


def test_an_estimate_is_trusted_twice_over_and_with_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me = member_of(A, B)
    monkeypatch.setattr(me.coordinates, "estimate", lambda _peer: RttGuess(0.1, 0.05))
    probe(me, A, 10.0)
    assert said(me.tick(10.2499), PingReq) == []
    assert len(said(me.tick(10.25), PingReq)) == 1


def late(me: Membership, peer: PeerId, now: float) -> tuple[int, Effects]:
    """Let a direct ping go unanswered; return its sequence and what follows."""
    sequence = probe(me, peer, now)
    return sequence, me.tick(now + CEILING)


def test_a_late_one_is_pinged_through_three_others_and_over_a_stream() -> None:
    me = member_of(A, B, C, D, E)
    direct, effects = late(me, A, 10.0)
    requests = said(effects, PingReq)
    assert len({request.to for request in requests}) == 3
    assert {request.to for request in requests} <= {B, C, D, E}
    (again,) = [d for d in said(effects, Ping) if d.to == A]
    assert again.reliable
    sequences = {direct, sequence_of(again), *map(sequence_of, requests)}
    assert len(sequences) == 3
    assert me.state(A) is ALIVE


@pytest.mark.parametrize("way", ["late", "stream", "helper"])
def test_any_answer_in_the_round_counts_but_only_the_direct_one_is_a_sample(way: str) -> None:
    me = member_of(A, B, C)
    direct, effects = late(me, A, 10.0)
    (again,) = [d for d in said(effects, Ping) if d.to == A]
    request = said(effects, PingReq)[0]
    source, sequence = {
        "late": (A, direct),
        "stream": (A, sequence_of(again)),
        "helper": (request.to, sequence_of(request)),
    }[way]
    me.receive(source, Ack(sequence, None), (), 10.6)
    assert me.counters.acks == 1
    assert me.samples == (way == "late")
    assert not any(effects.changes for _, effects in tick_until(me, 10.0 + 3 * CEILING))


def helped(me: Membership, now: float) -> int:
    """Have a helper answer for A, before A itself; return the direct ping's sequence."""
    direct, effects = late(me, A, now)
    request = said(effects, PingReq)[0]
    me.receive(request.to, Ack(sequence_of(request), None), (), now + 0.6)
    return direct


def test_the_direct_answer_is_a_sample_too_when_a_helper_was_quicker() -> None:
    me = member_of(A, B, C)
    direct = helped(me, 10.0)
    assert me.samples == 0
    me.receive(B, Ack(direct, None), (), 10.7)
    me.receive(A, Ack(direct, HERE), (), 10.8)
    estimate = me.rtt(A)
    assert estimate is not None
    assert estimate.latest == pytest.approx(0.8)
    me.receive(A, Ack(direct, HERE), (), 10.9)
    assert (me.samples, me.counters.acks) == (1, 1)


def test_a_direct_answer_that_is_far_too_late_or_slept_through_is_none() -> None:
    me = member_of(A, B, C)
    longest = (1 + rounds.INDIRECT_CEILING) * CEILING
    me.receive(A, Ack(helped(me, 10.0), HERE), (), 10.0 + longest + 0.01)
    direct = helped(me, 30.0)
    me.stood_still(0.3)
    me.receive(A, Ack(direct, HERE), (), 30.9)
    assert me.samples == 0


def test_a_helpers_answer_counts_from_a_helper_only() -> None:
    me = member_of(A, B)
    _, effects = late(me, A, 10.0)
    (request,) = said(effects, PingReq)
    me.receive(A, Ack(sequence_of(request), None), (), 10.6)
    me.receive(C, Ack(sequence_of(request), None), (), 10.6)
    assert me.counters.acks == 0
    me.receive(B, Ack(sequence_of(request), None), (), 10.6)
    assert me.counters.acks == 1


def test_a_silent_one_is_suspect_told_so_by_another_probe_and_then_dead() -> None:
    me = member_of(A, B)
    late(me, A, 10.0)
    suspect_at = 10.0 + CEILING + rounds.INDIRECT_CEILING * CEILING
    assert me.tick(suspect_at - 0.001).changes == []
    me.receive(B, Gossip(), (), suspect_at - 0.001)
    effects = me.tick(suspect_at)
    assert effects.changes == [Change(A, SUSPECT)]
    (told,) = [d for d in said(effects, Ping) if d.to == A]
    assert told.updates == (Suspect(A, EPOCH, ME),)
    (dead_at,) = [at for at, e in tick_until(me, 20.0) for c in e.changes if c == Change(A, DEAD)]
    assert dead_at == pytest.approx(suspect_at + 2.0)
    assert me.counters.suspicions == 2  # B does not answer either
    assert list(me.members()) == []


def suspects_after_a_failed_round(me: Membership) -> set[PeerId]:
    late(me, A, 10.0)
    effects = me.tick(10.0 + CEILING + rounds.INDIRECT_CEILING * CEILING)
    return {change.peer for change in effects.changes if change.state is SUSPECT}


def test_who_hears_nobody_for_a_whole_round_is_cut_off_and_suspects_everybody() -> None:
    assert suspects_after_a_failed_round(member_of(A, B, C, D)) == {A, B, C, D}


def test_who_hears_anybody_suspects_only_the_silent_one() -> None:
    me = member_of(A, B, C, D)
    me.receive(C, Ping(1, ME), (), 10.001)
    late(me, A, 10.0)
    me.receive(D, Gossip(), (), 10.0 + CEILING + 0.001)
    effects = me.tick(10.0 + CEILING + rounds.INDIRECT_CEILING * CEILING)
    assert [change.peer for change in effects.changes] == [A]


def test_who_stood_still_itself_has_heard_whom_it_had_heard() -> None:
    me = member_of(A, B, C)
    late(me, A, 10.0)
    me.receive(B, Gossip(), (), 10.001 + CEILING)
    me.stood_still(5.0)
    effects = me.tick(15.0 + CEILING + rounds.INDIRECT_CEILING * CEILING)
    assert [change.peer for change in effects.changes] == [A]


def test_a_neighbour_on_this_machine_is_heard_without_a_cable() -> None:
    me = member_of(A, B, C)
    me.vouched.add(B)
    late(me, A, 10.0)
    me.receive(B, Gossip(), (), 10.5)
    effects = me.tick(10.0 + CEILING + rounds.INDIRECT_CEILING * CEILING)
    assert {change.peer for change in effects.changes} == {A, C}, "and is not suspect itself"


def test_however_large_the_network_not_all_are_suspect_at_once() -> None:
    many = [PeerId(f"many{number}") for number in range(3 * prober.CUT_OFF_MOST)]
    suspects = suspects_after_a_failed_round(member_of(A, *many))
    assert len(suspects - {A}) == prober.CUT_OFF_MOST


def test_an_answer_to_a_ping_after_the_suspicion_began_ends_it() -> None:
    me = member_of(A, B)
    (told,) = me.cut(A, 10.0).datagrams
    effects = me.receive(A, Ack(sequence_of(told), None), (), 10.1)
    assert effects.changes == [Change(A, ALIVE)]
    assert not any(Change(A, DEAD) in e.changes for _, e in tick_until(me, 13.0))


def test_an_answer_to_a_ping_before_the_suspicion_began_does_not_end_it() -> None:
    me = member_of(A, B)
    sequence = probe(me, A, 9.9)
    assert me.cut(A, 10.0) == Effects(changes=[Change(A, SUSPECT)])
    assert me.receive(A, Ack(sequence, None), (), 10.1).changes == []
    assert me.state(A) is SUSPECT


def test_a_helpers_answer_does_not_end_a_suspicion() -> None:
    me = member_of(A, B)
    me.cut(A, 10.0)
    (request,) = said(me.tick(10.0 + CEILING), PingReq)
    assert request.updates[0] == Suspect(A, EPOCH, ME)  # the helper tells it to A
    me.receive(B, Ack(sequence_of(request), None), (), 10.6)
    assert me.counters.acks == 1
    assert me.state(A) is SUSPECT


def test_a_round_says_nothing_of_an_incarnation_that_began_after_it() -> None:
    me = member_of(A, B)
    late(me, A, 10.0)
    news = Alive(A, EPOCH + 1, pretend_signature(Alive, A, EPOCH + 1))
    me.receive(B, Gossip(), (news,), 10.7)
    assert not any(Change(A, SUSPECT) in e.changes for _, e in tick_until(me, 11.3))
    assert me.counters.failures >= 1


# doubt in oneself


def failed_round(me: Membership, *, nacks: int) -> None:
    _, effects = late(me, A, 10.0)
    for request in said(effects, PingReq)[:nacks]:
        me.receive(request.to, Nack(sequence_of(request)), (), 10.6)
        me.receive(request.to, Nack(sequence_of(request)), (), 10.6)
    me.tick(12.0)


@pytest.mark.parametrize(("nacks", "health"), [(3, 0), (2, 1), (0, 3)])
def test_a_failed_round_counts_against_me_by_the_missing_nacks(nacks: int, health: int) -> None:
    me = member_of(A, B, C, D)
    failed_round(me, nacks=nacks)
    assert me.counters.failures == 1
    assert me.health == health


def test_without_helpers_a_failed_round_counts_once_against_me() -> None:
    me = member_of(A)
    failed_round(me, nacks=0)
    assert me.health == 1


def test_answers_restore_the_trust_in_myself_and_doubt_has_a_limit() -> None:
    me = member_of(A, B, C, D)
    for incarnation in range(EPOCH, EPOCH + 12):
        me.receive(B, Gossip(), (Suspect(ME, incarnation, B),), 0.0)
    assert me.health == LAN.max_health == 8
    for number in range(10):
        measured(me, B, 1.0 + number, 0.01)
    assert me.health == 0


# helping others


def test_a_helper_pings_the_target_and_passes_its_answer_on_once() -> None:
    me = member_of(A, B)
    (ping,) = me.receive(A, PingReq(77, B), (), 1.0).datagrams
    assert ping.to == B
    assert ping.message == Ping(sequence_of(ping), B)
    ack = Ack(sequence_of(ping), HERE)
    assert me.receive(B, ack, (), 1.05).datagrams == [Datagram(A, Ack(77, None), ())]
    assert me.receive(B, ack, (), 1.06).datagrams == []
    assert me.samples == 1


def test_a_helper_passes_the_targets_plea_on() -> None:
    me = member_of(A, B)
    (ping,) = me.receive(A, PingReq(77, B), (Suspect(B, EPOCH, A),), 1.0).datagrams
    assert ping.updates == (Suspect(B, EPOCH, A),)
    plea = Alive(B, EPOCH + 1, pretend_signature(Alive, B, EPOCH + 1))
    (answer,) = me.receive(B, Ack(sequence_of(ping), HERE), (plea,), 1.05).datagrams
    assert answer == Datagram(A, Ack(77, None), (plea,))


def test_a_helper_says_in_time_that_it_had_no_answer_and_still_passes_a_late_one_on() -> None:
    me = member_of(A, B)
    (ping,) = me.receive(A, PingReq(77, B), (), 1.0).datagrams
    nack_at = 1.0 + rounds.NACK_SHARE * CEILING
    assert said(me.tick(nack_at - 0.001), Nack) == []
    assert said(me.tick(nack_at), Nack) == [Datagram(A, Nack(77), ())]
    late_ack = Ack(sequence_of(ping), HERE)
    assert said(me.receive(B, late_ack, (), nack_at + 0.1), Ack) == [Datagram(A, Ack(77, None), ())]


def test_a_helper_waits_for_a_late_answer_for_a_bounded_time() -> None:
    me = member_of(A, B)
    (ping,) = me.receive(A, PingReq(77, B), (), 1.0).datagrams
    happened = tick_until(me, 1.0 + (1 + prober.FORWARD_KEPT) * CEILING)
    assert sum(len(said(effects, Nack)) for _, effects in happened) == 1
    assert me.receive(B, Ack(sequence_of(ping), HERE), (), 3.0).datagrams == []


def test_who_is_asked_to_ping_itself_or_a_stranger_answers_at_once() -> None:
    me = member_of(A)
    assert me.receive(A, PingReq(7, ME), (), 1.0).datagrams == [Datagram(A, Ack(7, None), ())]
    assert me.receive(A, PingReq(8, E), (), 1.0).datagrams == [Datagram(A, Nack(8), ())]


def test_nobody_can_have_more_than_its_share_of_help() -> None:
    me = member_of(A, B, C)
    for number in range(100):
        me.receive(A, PingReq(number, B), (), 1.0)
    assert me.counters.ignored == 100 - rounds.MAX_FORWARDS_PER_SOURCE
    assert len(me.receive(C, PingReq(1, B), (), 1.0).datagrams) == 1
    tick_until(me, 4.0)
    assert len(said(me.receive(A, PingReq(1, B), (), 4.0), Ping)) == 1


def test_help_and_rounds_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MAX_FORWARDS", 2)
    monkeypatch.setattr(rounds, "MAX_ROUNDS", 2)
    me = member_of(A, B, C, D)
    helped = [me.receive(source, PingReq(1, D), (), 1.0).datagrams for source in (A, B, C)]
    assert [len(datagrams) for datagrams in helped] == [1, 1, 0]
    begun = [me.probe(peer, 1.0).datagrams for peer in (A, B, C)]
    assert [len(datagrams) for datagrams in begun] == [1, 1, 0]


def test_one_peer_is_in_one_round_at_a_time() -> None:
    me = member_of(A, B)
    probe(me, A, 1.0)
    assert me.probe(A, 1.1).datagrams == []


# connections, machines, sleep


def test_a_cut_connection_makes_a_peer_suspect_and_probes_it_at_once() -> None:
    me = member_of(A, B)
    effects = me.cut(A, 5.0)
    assert effects.changes == [Change(A, SUSPECT)]
    (ping,) = effects.datagrams
    assert ping.to == A
    assert isinstance(ping.message, Ping)
    assert ping.updates == (Suspect(A, EPOCH, ME),)
    assert me.cut(A, 5.1) == Effects()
    assert me.cut(E, 5.1) == Effects()


def test_a_vouched_peer_is_judged_by_its_connection_alone() -> None:
    me = member_of(A, B)
    me.vouched.add(A)
    late(me, A, 1.0)
    for accusation in (Suspect(A, EPOCH, B), Dead(A, EPOCH, B)):
        effects = me.receive(B, Gossip(), (accusation,), 2.0)
        assert effects == Effects()
    happened = tick_until(me, 20.0)
    assert Change(A, SUSPECT) not in [c for _, e in happened for c in e.changes]
    assert not any(u.peer == A for _, e in happened for d in e.datagrams for u in d.updates)
    assert me.cut(A, 21.0).changes == [Change(A, SUSPECT)]
    assert A not in me.vouched


def test_a_suspect_that_is_vouched_for_meanwhile_is_alive_at_the_end_of_its_time() -> None:
    me = member_of(A, B)
    me.cut(A, 1.0)
    me.vouched.add(A)
    changes = [c for _, e in tick_until(me, 5.0) for c in e.changes if c.peer == A]
    assert changes == [Change(A, ALIVE)]


def test_time_in_which_this_process_stood_still_is_nobodys_silence() -> None:
    me = member_of(A, B)
    probe(me, A, 1.0)
    me.stood_still(10.0)
    assert said(me.tick(11.0 + CEILING - 0.001), PingReq) == []
    assert len(said(me.tick(11.0 + CEILING), PingReq)) == 1
    me.cut(B, 12.0)
    me.stood_still(10.0)
    dead = [at for at, e in tick_until(me, 30.0) if Change(B, DEAD) in e.changes]
    assert dead == [pytest.approx(24.0)]


def test_an_answer_that_came_while_this_process_stood_still_is_no_sample() -> None:
    me = member_of(A)
    sequence = probe(me, A, 1.0)
    me.stood_still(0.3)
    me.receive(A, Ack(sequence, HERE), (), 1.4)
    assert me.counters.acks == 1
    assert me.samples == 0


# the dead


def dead_member() -> tuple[Membership, float]:
    me = member_of(A, knobs=replace(LAN, revisit_s=100, probe_interval_s=100))
    me.cut(A, 0.0)
    (died_at,) = [at for at, e in tick_until(me, 3.0) if Change(A, DEAD) in e.changes]
    return me, died_at


def test_a_dead_peer_is_pinged_now_and_then_and_told_so() -> None:
    me, died_at = dead_member()
    knocks = tick_until(me, died_at + 3 * LAN.reconnect_interval_s + 0.001)
    told = [(at, datagram) for at, e in knocks for datagram in said(e, Ping)]
    assert [at for at, _ in told] == pytest.approx([died_at + 5.0 * n for n in (1, 2, 3)])
    for _, datagram in told:
        assert datagram.to == A
        assert datagram.updates[0] == Dead(A, EPOCH, ME)
        assert not datagram.reliable


def test_who_left_is_not_pinged() -> None:
    me = member_of(A)
    goodbye = Left(A, EPOCH, pretend_signature(Left, A, EPOCH))
    me.receive(A, Gossip(), (goodbye,), 0.0)
    assert not any(said(effects, Ping) for _, effects in tick_until(me, 60.0))


def test_a_ping_of_a_dead_peer_is_answered_with_its_death() -> None:
    me, now = dead_member()
    (answer,) = me.receive(A, Ping(5, ME), (), now).datagrams
    assert answer == Datagram(A, Ack(5, me.coordinates.mine), (Dead(A, EPOCH, ME),))
    assert me.state(A) is DEAD


def test_a_forgotten_peer_is_a_stranger_whose_answers_teach_nothing() -> None:
    me = member_of(A)
    me.vouched.add(A)
    sequence = probe(me, A, 1.0)
    me.forget(A)
    assert A not in me.vouched
    me.receive(A, Ack(sequence, HERE), (), 1.1)
    assert me.state(A) is DEAD
    assert me.rtt(A) is None
    assert me.coordinates.of(A) is None
    assert not any(e.changes for _, e in tick_until(me, 10.0))
