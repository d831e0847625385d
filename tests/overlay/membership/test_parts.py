import random
from dataclasses import dataclass
from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import SignatureInvalid
from overlay.identity import Identity
from overlay.membership import broadcasts, roster
from overlay.membership.broadcasts import Broadcasts
from overlay.membership.knobs import Knobs
from overlay.membership.messages import Alive, Dead, MemberState, Suspect, Update
from overlay.membership.roster import Roster
from overlay.membership.suspicion import Suspicion
from overlay.membership.timers import Timers
from overlay.names import PeerId
from overlay.signed import Purpose, sign_incarnation, verify_incarnation

LAN = Knobs.lan()
A, B, C, D, E = (PeerId(name) for name in "abcde")


def alive(peer: PeerId, incarnation: int = 1) -> Alive:
    return Alive(peer, incarnation, b"")


# suspicion


@pytest.mark.parametrize(
    ("confirmations", "seconds"), [(0, 2.0), (1, 1.5), (2, 1.2075), (3, 1.0), (4, 1.0)]
)
def test_each_confirmation_brings_the_end_nearer_down_to_the_least_time(
    confirmations: int, seconds: float
) -> None:
    suspicion = Suspicion.begin(A, B, 10.0, members=8, knobs=LAN)
    for number in range(confirmations):
        suspicion.confirm(PeerId(f"confirmer{number}"))
    assert suspicion.deadline - 10.0 == pytest.approx(seconds, abs=0.001)


def test_an_accuser_counts_once_and_enough_is_enough() -> None:
    suspicion = Suspicion.begin(A, B, 0.0, members=8, knobs=LAN)
    assert not suspicion.confirm(B)
    assert [suspicion.confirm(accuser) for accuser in (C, C, D, E)] == [True, False, True, True]
    assert not suspicion.confirm(PeerId("f"))
    assert suspicion.accusers == [B, C, D, E]


@pytest.mark.parametrize(("members", "seconds"), [(2, 1.0), (3, 2.0), (1000, 6.0)])
def test_who_has_nobody_to_ask_waits_for_the_least_time(members: int, seconds: float) -> None:
    suspicion = Suspicion.begin(A, B, 0.0, members=members, knobs=LAN)
    assert suspicion.deadline == pytest.approx(seconds)


def test_in_a_network_of_three_one_confirmation_is_all() -> None:
    suspicion = Suspicion.begin(A, B, 0.0, members=3, knobs=LAN)
    assert suspicion.confirm(C)
    assert suspicion.deadline == pytest.approx(1.0)


# broadcasts


def test_what_was_said_least_often_is_said_first_and_of_that_the_newest() -> None:
    queue = Broadcasts()
    queue.put(alive(A))
    assert queue.take(105, limit=4) == [alive(A)]
    queue.put(alive(B))
    queue.put(alive(C))
    assert queue.take(210, limit=4) == [alive(C), alive(B)]
    assert queue.take(1000, limit=4) == [alive(C), alive(B), alive(A)]


@given(limit=st.integers(1, 8), room=st.integers(0, 600), count=st.integers(0, 20))
def test_each_update_is_sent_as_often_as_the_limit_and_no_datagram_overflows(
    limit: int, room: int, count: int
) -> None:
    queue = Broadcasts()
    for number in range(count):
        queue.put(alive(PeerId(str(number))))
    sent: list[Update] = []
    while taken := queue.take(room, limit):
        assert sum(update.SIZE for update in taken) <= room
        sent += taken
    if room >= Alive.SIZE:
        assert len(queue) == 0
        assert all(sent.count(alive(PeerId(str(n)))) == limit for n in range(count))
    else:
        assert sent == []


def test_news_replace_what_was_said_of_the_same_peer() -> None:
    queue = Broadcasts()
    queue.put(Suspect(A, 1, B))
    queue.put(alive(B))
    queue.put(alive(A, 2))
    assert len(queue) == 2
    assert queue.about(A) == [alive(A, 2)]
    queue.put(Dead(A, 2, C))
    assert queue.about(A) == [Dead(A, 2, C)]


def test_accusers_stand_side_by_side_until_the_peer_refutes() -> None:
    queue = Broadcasts()
    queue.put(Suspect(A, 1, B))
    queue.put(Suspect(A, 1, C))
    queue.put(Suspect(A, 1, C))
    assert queue.about(A) == [Suspect(A, 1, B), Suspect(A, 1, C)]
    queue.put(Suspect(A, 2, B))
    assert queue.about(A) == [Suspect(A, 2, B)]
    queue.drop(A)
    assert len(queue) == 0
    assert queue.take(1000, limit=4) == []


def test_what_is_in_the_datagram_already_is_not_added() -> None:
    queue = Broadcasts()
    queue.put(Suspect(A, 1, B))
    assert queue.take(1000, 4, besides=[Suspect(A, 1, B)]) == []
    assert len(queue) == 1


def test_the_queue_is_bounded_and_drops_what_was_said_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcasts, "MAX_BROADCASTS", 3)
    queue = Broadcasts()
    for peer in (A, B, C):
        queue.put(alive(peer))
    queue.take(105, limit=4)
    queue.put(alive(D))
    assert len(queue) == 3
    assert queue.about(C) == []
    queue.put(alive(E))
    assert queue.take(1000, 4) == [alive(E), alive(D), alive(B)]


# roster


def full(count: int, seed: int = 0) -> Roster:
    table = Roster(random.Random(seed))
    for number in range(count):
        table.add(PeerId(f"p{number}"), 1)
    return table


def turns(table: Roster, count: int) -> list[PeerId]:
    return [
        member.peer for member, _ in (table.next_turn(0.0, 0.0) for _ in range(count)) if member
    ]


@given(count=st.integers(1, 60), seed=st.integers(0, 9))
def test_everybody_has_one_turn_in_each_round(count: int, seed: int) -> None:
    table = full(count, seed)
    first, second = turns(table, count), turns(table, count)
    assert sorted(first) == sorted(second) == sorted(table.there())


def test_rounds_differ() -> None:
    table = full(30)
    assert turns(table, 30) != turns(table, 30)


def test_a_newcomer_has_its_turn_in_this_round() -> None:
    table = full(30)
    turns(table, 10)
    table.add(A, 1)
    assert A in turns(table, 21)


def test_a_peer_that_comes_back_has_its_turn_in_this_round() -> None:
    table = full(30)
    member = table.get(PeerId("p5"))
    assert member is not None
    table.enter(member, MemberState.DEAD, 0.0)
    assert "p5" not in turns(table, 20)
    table.enter(member, MemberState.ALIVE, 1.0)
    assert turns(table, 10).count(PeerId("p5")) == 1


def test_who_is_in_a_round_of_probes_still_gives_way() -> None:
    table = full(2)
    member = table.get(PeerId("p1"))
    assert member is not None
    member.path = roster.Path(probed_at=0.0, probing=True)
    assert [turn for turn, _ in (table.next_turn(9.0, 1.0) for _ in range(2)) if turn] == [
        table.get(PeerId("p0"))
    ]


def test_who_was_probed_lately_gives_way_and_who_is_gone_is_skipped() -> None:
    table = full(3)
    for peer in table.there():
        member = table.get(peer)
        assert member is not None
        member.path = roster.Path(probed_at=9.5)
    assert table.next_turn(10.0, 1.0) == (None, 10.5)
    member = table.get(PeerId("p1"))
    assert member is not None
    member.path = None
    assert table.next_turn(10.0, 1.0)[0] is member
    for peer in table.there():
        gone = table.get(peer)
        assert gone is not None
        table.enter(gone, MemberState.DEAD, 10.0)
    assert table.next_turn(20.0, 1.0) == (None, inf)


@given(seed=st.integers(0, 99))
def test_the_audience_are_those_there_and_the_lately_dead(seed: int) -> None:
    table = full(6, seed)
    for peer, at in (("p1", 5.0), ("p2", 50.0)):
        gone = table.get(PeerId(peer))
        assert gone is not None
        table.enter(gone, MemberState.DEAD, at)
    heard = {member.peer for member in table.audience(9, gone_since=30.0)}
    assert heard == {"p0", "p2", "p3", "p4", "p5"}
    assert len({member.peer for member in table.audience(3, gone_since=30.0)}) == 3


def test_helpers_are_alive_and_not_the_target() -> None:
    table = full(4)
    target, suspect = table.get(PeerId("p0")), table.get(PeerId("p1"))
    assert target is not None
    assert suspect is not None
    table.enter(suspect, MemberState.SUSPECT, 0.0)
    assert {helper.peer for helper in table.helpers(3, besides=target)} == {"p2", "p3"}


def test_a_full_table_makes_room_by_the_longest_gone_and_else_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster, "MAX_MEMBERS", 3)
    table = full(3)
    assert table.add(A, 1) is None
    for at, peer in enumerate(["p2", "p0"]):
        gone = table.get(PeerId(peer))
        assert gone is not None
        table.enter(gone, MemberState.DEAD, float(at))
    assert table.add(A, 1) is not None
    assert table.get(PeerId("p2")) is None
    assert table.get(PeerId("p0")) is not None


# timers


@dataclass
class Waiting:
    deadline: float

    def shift(self, seconds: float) -> None:
        self.deadline += seconds


@given(st.lists(st.floats(0, 10), max_size=20), st.floats(0, 10))
def test_what_is_due_comes_in_order_and_the_rest_stays(whens: list[float], now: float) -> None:
    timers = Timers[Waiting]()
    for when in whens:
        timers.add(Waiting(when))
    assert [timed.deadline for timed in timers.due(now)] == sorted(w for w in whens if w <= now)
    assert timers.next() == min((w for w in whens if w > now), default=inf)


def test_what_was_moved_or_ended_meanwhile_is_seen_when_its_time_comes() -> None:
    timers = Timers[Waiting]()
    later, ended, sooner = Waiting(1.0), Waiting(1.0), Waiting(5.0)
    for timed in (later, ended, sooner):
        timers.add(timed)
    later.deadline, ended.deadline, sooner.deadline = 2.0, inf, 0.5
    timers.add(sooner)
    assert list(timers.due(1.5)) == [sooner]
    sooner.deadline = inf
    assert list(timers.due(9.0)) == [later]


def test_time_that_did_not_count_moves_everything_once() -> None:
    timers = Timers[Waiting]()
    twice = Waiting(1.0)
    timers.add(twice)
    timers.add(twice)
    timers.shift(2.0)
    assert list(timers.due(2.9)) == []
    assert twice.deadline == 3.0


# knobs and signatures


@pytest.mark.parametrize("knobs", [Knobs.local(), Knobs.lan(), Knobs.wan()])
def test_no_preset_has_more_members_waiting_for_a_revisit_than_are_looked_at(knobs: Knobs) -> None:
    assert ceil(knobs.revisit_s / knobs.probe_interval_s) < roster._LOOK_AHEAD
    assert 0 < knobs.timeout_floor_s < knobs.timeout_ceiling_s <= knobs.revisit_s


def test_an_incarnation_is_signed_for_its_purpose_and_by_its_peer() -> None:
    me, other = Identity.generate(), Identity.generate()
    signature = sign_incarnation(me, Purpose.ALIVE, 7)
    verify_incarnation(me.peer_id, Purpose.ALIVE, 7, signature)
    for peer, purpose, incarnation in (
        (other.peer_id, Purpose.ALIVE, 7),
        (me.peer_id, Purpose.LEFT, 7),
        (me.peer_id, Purpose.ALIVE, 8),
    ):
        with pytest.raises(SignatureInvalid):
            verify_incarnation(peer, purpose, incarnation, signature)


def test_what_is_signed_of_an_incarnation_is_eight_bytes_after_the_purpose() -> None:
    me = Identity.generate()
    signed = b"myxo/left/1\n" + bytes(6) + b"\x01\x02"
    assert sign_incarnation(me, Purpose.LEFT, 0x102) == me.sign(signed)
