"""What updates change, how a peer refutes, and what rides on datagrams."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf, log10

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Update,
    beliefs,
    roster,
)
from overlay.membership.knobs import Knobs
from overlay.membership.messages import LOAD_BYTES, MESSAGE_BYTES, room_beside
from overlay.membership.telling import GOODBYES
from overlay.membership.testing import EPOCH, core, pretend_signature
from overlay.names import PeerId

ALIVE, SUSPECT, DEAD, LEFT = MemberState
ME, A, B, C, D, E = (PeerId(name) for name in ["me", *"abcde"])
OTHERS = (A, B, C)
LAN = Knobs.lan()
RIPE_S = LAN.suspicion_s / 2
"""How long a suspect is safe from `Dead`."""


def member_of(*others: PeerId, knobs: Knobs = LAN, seed: int = 0) -> Membership:
    me = core(ME, knobs, random.Random(seed))
    for other in others:
        me.learn(other, EPOCH, 0.0)
    return me


def alive(peer: PeerId, refuted: int) -> Alive:
    incarnation = EPOCH + refuted
    return Alive(peer, incarnation, pretend_signature(Alive, peer, incarnation))


def left(peer: PeerId, refuted: int) -> Left:
    incarnation = EPOCH + refuted
    return Left(peer, incarnation, pretend_signature(Left, peer, incarnation))


def suspect(peer: PeerId, refuted: int = 0, by: PeerId = B) -> Suspect:
    return Suspect(peer, EPOCH + refuted, by)


def dead(peer: PeerId, refuted: int = 0, by: PeerId = B) -> Dead:
    return Dead(peer, EPOCH + refuted, by)


Accuse = Callable[[PeerId, int, PeerId], Update]


def hear(me: Membership, *updates: Update, at: float = 0.0, source: PeerId = B) -> Effects:
    return me.receive(source, Gossip(), updates, at)


def retold(me: Membership, about: PeerId, at: float) -> list[Update]:
    """Return what the next gossip says about a peer to others."""
    datagrams = [datagram for datagram in me.tick(at).datagrams if datagram.to != about]
    return sorted({u for d in datagrams for u in d.updates if u.peer == about}, key=repr)


# what is learned from records


def test_a_record_of_a_stranger_makes_a_member_that_is_alive() -> None:
    me = member_of()
    assert me.learn(A, EPOCH, 0.0).changes == [Change(A, ALIVE)]
    assert me.learn(A, EPOCH, 0.0).changes == []
    assert list(me.members()) == [A]


def test_a_record_of_myself_makes_no_member() -> None:
    me = member_of()
    assert me.learn(ME, EPOCH, 0.0).changes == []
    assert list(me.members()) == []


def test_an_old_record_of_a_dead_peer_does_not_revive_it_but_one_of_a_later_start_does() -> None:
    me = member_of(*OTHERS)
    hear(me, suspect(A, by=B))
    hear(me, dead(A), at=RIPE_S)
    assert me.learn(A, EPOCH, 1.0).changes == []
    assert me.state(A) is DEAD
    assert me.learn(A, 2 * EPOCH, 1.0).changes == [Change(A, ALIVE)]
    assert retold(me, A, 1.0) == []


def test_a_table_full_of_living_members_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "MAX_MEMBERS", 3)
    me = member_of(*OTHERS)
    assert me.learn(D, EPOCH, 0.0) == Effects()
    hear(me, left(A, 0))
    assert me.learn(D, EPOCH, 0.0).changes == [Change(D, ALIVE)]


# the rules


def test_a_suspicion_is_adopted_and_passed_on() -> None:
    me = member_of(*OTHERS)
    assert hear(me, suspect(A)).changes == [Change(A, SUSPECT)]
    assert retold(me, A, 0.0) == [suspect(A)]
    assert hear(me, suspect(A)).changes == []


def test_confirmations_hasten_the_death() -> None:
    me = member_of(A, B, C, D, E)
    hear(me, *[suspect(A, by=accuser) for accuser in (B, C, D, E)], at=1.0)
    assert Change(A, DEAD) not in me.tick(1.999).changes
    assert Change(A, DEAD) in me.tick(2.0).changes


def test_strangers_the_dead_and_the_accused_itself_confirm_nothing() -> None:
    me = member_of(A, B, C)
    hear(me, suspect(C, by=B))
    hear(me, dead(C, by=B), at=RIPE_S)
    for accuser in (PeerId("stranger"), A, C, ME):
        assert hear(me, suspect(A, by=accuser), at=1.0).changes == []
    assert me.state(A) is ALIVE


def test_a_death_ends_a_suspicion_that_left_time_to_refute() -> None:
    me = member_of(*OTHERS)
    hear(me, suspect(A))
    assert hear(me, dead(A), at=RIPE_S - 0.001).changes == []
    assert me.state(A) is SUSPECT
    assert hear(me, dead(A), at=RIPE_S).changes == [Change(A, DEAD)]
    assert retold(me, A, RIPE_S) == [dead(A)]
    assert me.counters.deaths == 1


def test_nobody_is_dead_at_a_stroke() -> None:
    me = member_of(*OTHERS)
    assert hear(me, suspect(A), dead(A), dead(A, by=C)).changes == [Change(A, SUSPECT)]
    assert retold(me, A, 0.0) == [suspect(A), suspect(A, by=C)]


@pytest.mark.parametrize("accusation", [suspect, dead])
def test_an_accusation_of_an_earlier_incarnation_is_void(accusation: Accuse) -> None:
    me = member_of(*OTHERS)
    hear(me, alive(A, 3))
    assert hear(me, accusation(A, 2, B)) == Effects()
    assert me.state(A) is ALIVE


@pytest.mark.parametrize("accusation", [suspect, dead])
@pytest.mark.parametrize("refuted", [1, 60_000])
def test_an_accusation_of_an_unknown_incarnation_changes_nothing_but_is_looked_into(
    accusation: Accuse, refuted: int
) -> None:
    me = member_of(*OTHERS)
    effects = hear(me, accusation(A, refuted, B))
    assert effects.changes == []
    assert effects.unknown == []
    (ping,) = effects.datagrams
    assert ping.to == A
    assert isinstance(ping.message, Ping)
    assert hear(me, alive(A, 1), at=0.1).changes == []
    assert me.state(A) is ALIVE


def test_an_accusation_of_a_later_start_asks_for_the_record() -> None:
    me = member_of(*OTHERS)
    assert hear(me, Suspect(A, 5 * EPOCH, B)).unknown == [A]


def test_made_up_incarnations_cause_one_ping_at_most_each_revisit() -> None:
    me = member_of(*OTHERS)
    (ping,) = hear(me, suspect(A, 1), at=1.0).datagrams
    assert isinstance(ping.message, Ping)
    me.receive(A, Ack(ping.message.sequence, None), (), 1.01)
    assert not any(hear(me, suspect(A, n), at=1.1).datagrams for n in range(2, 100))
    assert me.counters.ignored == 99
    assert len(hear(me, suspect(A, 1), at=1.0 + LAN.revisit_s).datagrams) == 1
    hear(me, left(A, 1), at=3.0)
    pings = [d for n in range(2, 100) for d in hear(me, suspect(A, n), at=3.1).datagrams]
    assert [datagram.updates for datagram in pings] == [(left(A, 1),)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**64 - 1)), max_size=30))
def test_no_accusation_raises_an_incarnation(accusations: list[tuple[bool, int]]) -> None:
    me = member_of(*OTHERS)
    for kills, incarnation in accusations:
        hear(me, (Dead if kills else Suspect)(A, incarnation, B))
    assert hear(me, alive(A, 1), at=0.0).changes == (
        [Change(A, ALIVE)] if me.counters.suspicions else []
    )
    assert me.state(A) is ALIVE


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_a_higher_signed_incarnation_revives(state: MemberState) -> None:
    me = member_of(*OTHERS)
    hear(me, suspect(A))
    if state is DEAD:
        hear(me, dead(A), at=RIPE_S)
    if state is LEFT:
        hear(me, left(A, 0))
    assert me.state(A) is state
    assert hear(me, alive(A, 0), at=1.0).changes == []
    assert hear(me, alive(A, 1), at=1.0).changes == [Change(A, ALIVE)]
    assert retold(me, A, 1.0) == [alive(A, 1)]
    assert Change(A, DEAD) not in me.tick(10.0).changes


def test_a_revived_peer_has_its_turn_again() -> None:
    me = member_of(A)
    hear(me, left(A, 0), source=A)
    hear(me, alive(A, 1), source=A)
    ticks = [me.tick(now / 100) for now in range(int(100 * LAN.probe_interval_s) + 1)]
    pinged = [d.to for tick in ticks for d in tick.datagrams if isinstance(d.message, Ping)]
    assert pinged == [A]


@pytest.mark.parametrize("before", [ALIVE, SUSPECT, DEAD])
def test_a_goodbye_outranks_all_of_its_incarnation(before: MemberState) -> None:
    me = member_of(*OTHERS)
    if before is not ALIVE:
        hear(me, suspect(A))
    if before is DEAD:
        hear(me, dead(A), at=RIPE_S)
    assert me.state(A) is before
    assert hear(me, left(A, 0), at=1.0).changes == [Change(A, LEFT)]
    assert hear(me, left(A, 0), suspect(A), dead(A), at=2.0).changes == []
    assert A not in list(me.members())


def test_a_goodbye_of_an_earlier_incarnation_is_void() -> None:
    me = member_of(*OTHERS)
    hear(me, alive(A, 2))
    assert hear(me, left(A, 1)).changes == []


def test_forged_statements_change_nothing_and_are_counted() -> None:
    me = member_of(*OTHERS)
    forged = Alive(A, EPOCH + 1, pretend_signature(Left, A, EPOCH + 1))
    foreign = Left(A, EPOCH, pretend_signature(Left, B, EPOCH))
    assert hear(me, forged, foreign) == Effects()
    assert me.counters.forged == 2
    assert hear(me, suspect(A)).changes == [Change(A, SUSPECT)]


def test_signatures_are_checked_only_if_they_say_something_new() -> None:
    asked: list[Alive | Left] = []
    me = member_of(*OTHERS)
    me._me._verify = lambda update: not asked.append(update)  # type: ignore[func-returns-value]
    for _ in range(3):
        hear(me, alive(A, 0), alive(A, 1), alive(E, 1))
    assert asked == [alive(A, 1)]


def test_of_strangers_nothing_is_believed_but_their_records_are_wanted() -> None:
    me = member_of(*OTHERS)
    effects = hear(me, alive(D, 1), suspect(D), suspect(E), dead(PeerId("f")), left(PeerId("g"), 0))
    assert effects == Effects(unknown=[D, E])


# agreement with a simple model

Script = list[tuple[float, list[Update]]]


@dataclass
class Known:
    """One peer, in the model."""

    incarnation: int = EPOCH
    state: MemberState = ALIVE
    suspect_since: float = inf


def model(script: Script) -> dict[PeerId, Known]:
    """Return what the rules as they stand in `beliefs.py` make of a script."""
    known = {peer: Known() for peer in OTHERS}
    now = 0.0
    for later, updates in script:
        now += later
        signed = [u for u in updates if isinstance(u, Alive | Left)]
        for u in signed + [u for u in updates if u not in signed]:
            its = known[u.peer]
            if isinstance(u, Alive) and u.incarnation > its.incarnation:
                known[u.peer] = Known(u.incarnation)
            elif isinstance(u, Left) and u.incarnation >= its.incarnation:
                known[u.peer] = Known(u.incarnation, LEFT)
            elif isinstance(u, Suspect | Dead) and u.incarnation == its.incarnation:
                accuser = known[u.accuser]
                ripe = now >= its.suspect_since + RIPE_S
                if its.state is SUSPECT and isinstance(u, Dead) and ripe:
                    its.state = DEAD
                elif its.state is ALIVE and accuser.state in {ALIVE, SUSPECT}:
                    its.state, its.suspect_since = SUSPECT, now
    return known


@st.composite
def an_update(draw: st.DrawFn) -> Update:
    peer = draw(st.sampled_from(OTHERS))
    incarnation = draw(st.integers(0, 3))
    accuser = draw(st.sampled_from([other for other in OTHERS if other != peer]))
    match draw(st.sampled_from([ALIVE, LEFT, SUSPECT, DEAD])):
        case MemberState.ALIVE:
            return alive(peer, incarnation)
        case MemberState.LEFT:
            return left(peer, incarnation)
        case MemberState.SUSPECT:
            return suspect(peer, incarnation, accuser)
        case _:
            return dead(peer, incarnation, accuser)


updates = st.lists(an_update(), max_size=6)


@given(st.lists(st.tuples(st.floats(0, 0.16), updates), max_size=6))
@settings(max_examples=300)
def test_beliefs_agree_with_a_simple_model_of_the_rules(script: Script) -> None:
    """In less time than the shortest suspicion takes, so that no timer ends one."""
    me = member_of(*OTHERS, knobs=replace(LAN, probe_interval_s=1000))
    told = dict.fromkeys(OTHERS, ALIVE)
    now = 0.0
    for later, heard in script:
        now += later
        me.tick(now)
        for change in hear(me, *heard, at=now).changes:
            assert told[change.peer] is not change.state
            told[change.peer] = change.state
    expected = {peer: its.state for peer, its in model(script).items()}
    assert {peer: me.state(peer) for peer in OTHERS} == told == expected


@given(st.lists(an_update(), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_whatever_was_lost_or_repeated_or_came_late_a_refutation_settles_it(
    said: list[Update], shuffler: random.Random
) -> None:
    settled: list[dict[PeerId, MemberState]] = []
    for seed in range(3):
        me = member_of(*OTHERS, seed=seed, knobs=replace(LAN, probe_interval_s=1000))
        heard = [u for u in said * 2 if shuffler.random() < 0.7]
        heard += [alive(peer, 4) for peer in OTHERS]
        shuffler.shuffle(heard)
        for number, update in enumerate(heard):
            hear(me, update, at=number * 0.2)
            me.tick(number * 0.2)
        settled.append({peer: me.state(peer) for peer in OTHERS})
    assert settled == [dict.fromkeys(OTHERS, ALIVE)] * 3


# refuting


@pytest.mark.parametrize("accusation", [suspect(ME), dead(ME), left(ME, 0)])
def test_an_accused_peer_refutes_to_the_accuser_and_to_all(accusation: Update) -> None:
    me = member_of(*OTHERS)
    (answer,) = hear(me, accusation).datagrams
    assert answer == Datagram(B, Gossip(), (alive(ME, 1),))
    assert me.incarnation == EPOCH + 1
    assert me.refutations == me.health == 1
    assert {d.to for d in me.tick(0.1).datagrams if alive(ME, 1) in d.updates} == set(OTHERS)


def test_a_plea_goes_with_the_answer_to_a_ping() -> None:
    me = member_of(*OTHERS)
    (answer,) = me.receive(B, Ping(1, ME), (suspect(ME),), 0.0).datagrams
    assert answer == Datagram(B, Ack(1, me.coordinates.mine), (alive(ME, 1),))


def test_what_was_refuted_already_is_answered_with_the_same_statement() -> None:
    me = member_of(*OTHERS)
    hear(me, suspect(ME))
    (answer,) = hear(me, dead(ME), source=C).datagrams
    assert answer.to == C
    assert answer.updates[0] == alive(ME, 1)
    assert me.incarnation == EPOCH + 1
    assert me.refutations == 1


def test_an_accusation_from_before_a_restart_is_answered_without_a_new_incarnation() -> None:
    me = member_of(*OTHERS)
    (answer,) = hear(me, Dead(ME, EPOCH - 1, B)).datagrams
    assert answer.updates == (alive(ME, 0),)
    assert me.incarnation == EPOCH
    assert me.refutations == 0


def test_accusations_cannot_use_up_my_incarnations() -> None:
    me = member_of(*OTHERS)
    assert hear(me, Suspect(ME, 2**64 - 1, B), Dead(ME, EPOCH + 1, B)) == Effects()
    assert me.incarnation == EPOCH


def test_what_i_signed_before_my_clock_was_set_back_is_outranked() -> None:
    me = member_of(*OTHERS)
    (answer,) = hear(me, alive(ME, 10)).datagrams
    assert answer.updates == (alive(ME, 11),)
    (answer,) = hear(me, left(ME, 20)).datagrams
    assert answer.updates == (alive(ME, 21),)
    assert hear(me, Alive(ME, EPOCH + 99, b"forged")).datagrams == []
    assert me.incarnation == EPOCH + 21


# the buddy system


@pytest.mark.parametrize("message", [Ping(1, ME), PingReq(1, ME), PingReq(1, E)])
def test_whatever_goes_to_a_suspect_says_so_first(message: Message) -> None:
    me = member_of(*OTHERS)
    hear(me, suspect(A))
    hear(me, alive(C, 1))
    (answer,) = me.receive(A, message, (), 0.1).datagrams
    assert answer.updates == (suspect(A), alive(C, 1))


def test_one_that_left_is_told_its_own_goodbye() -> None:
    me = member_of(*OTHERS)
    hear(me, left(A, 0))
    (answer,) = me.receive(A, Ping(1, ME), (), 0.1).datagrams
    assert answer.updates == (left(A, 0),)


# telling


def test_gossip_goes_to_the_fanout_until_everything_was_said_often_enough() -> None:
    others = [PeerId(f"p{number}") for number in range(30)]
    me = member_of(*others, knobs=replace(LAN, probe_interval_s=1000))
    hear(me, alive(others[0], 1), source=others[1], at=1.0)
    rounds: list[tuple[float, int]] = []
    while (now := me.next_wake()) < 100:
        gossips = [d for d in me.tick(now).datagrams if isinstance(d.message, Gossip)]
        assert all(d.updates == (alive(others[0], 1),) for d in gossips)
        assert len({d.to for d in gossips}) == len(gossips)
        rounds.append((now, len(gossips)))
    assert [count for _, count in rounds] == [3, 3, 2]
    assert sum(count for _, count in rounds) == LAN.retransmit * ceil(log10(31))
    assert [at for at, _ in rounds] == pytest.approx([1.0, 1.1, 1.2])


def test_there_is_no_gossip_without_news() -> None:
    me = member_of(*OTHERS)
    assert not [d for d in me.tick(0.5).datagrams if isinstance(d.message, Gossip)]


@pytest.mark.parametrize(("dead_for_s", "hears"), [(0.0, True), (30.0, True), (30.1, False)])
def test_the_lately_dead_hear_gossip_too(dead_for_s: float, hears: bool) -> None:
    me = member_of(A, B, knobs=replace(LAN, probe_interval_s=1000))
    hear(me, suspect(A))
    hear(me, dead(A), at=1.0)
    now = 1.0 + dead_for_s
    while me.next_wake() < now:
        me.tick(me.next_wake())
    hear(me, alive(B, 1), at=now)
    gossips = [d for d in me.tick(now).datagrams if isinstance(d.message, Gossip)]
    assert {d.to for d in gossips} == ({A, B} if hears else {B})
    assert all(d.updates[0] == Dead(A, EPOCH, ME) for d in gossips if d.to == A)


@given(
    news=st.integers(0, 40),
    message=st.sampled_from([Ping(1, ME), PingReq(1, ME), PingReq(1, E), Gossip()]),
)
def test_no_datagram_is_larger_than_what_passes(news: int, message: Message) -> None:
    others = [PeerId(f"p{number}") for number in range(40)]
    me = member_of(*others)
    hear(me, *[alive(peer, 1) for peer in others[:news]], source=others[0])
    hear(me, *[suspect(peer, int(i < news), by=others[0]) for i, peer in enumerate(others[1:], 1)])
    effects = me.receive(others[1], message, (suspect(ME), suspect(ME)), 0.1)
    later = me.tick(0.2)
    for datagram in (*effects.datagrams, *later.datagrams):
        used = sum(update.SIZE for update in datagram.updates)
        assert used <= room_beside(datagram.message)


def test_datagrams_are_filled_while_there_are_news() -> None:
    others = [PeerId(f"p{number}") for number in range(40)]
    me = member_of(*others)
    hear(me, *[alive(peer, 1) for peer in others], source=others[0])
    for message in (Ping(1, ME), PingReq(1, ME)):
        (answer,) = me.receive(others[1], message, (), 0.1).datagrams
        assert len(answer.updates) == room_beside(answer.message) // Alive.SIZE == 8
    gossip = me.tick(0.0).datagrams[0]
    assert len(gossip.updates) == room_beside(Gossip()) // Alive.SIZE == 11


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (Ping(1, ME), 42),
        (PingReq(1, ME), 42),
        (Nack(1), 10),
        (Gossip(), 2),
        (Ack(1, None), 56 + LOAD_BYTES),
    ],
)
def test_messages_leave_as_much_room_as_their_encoding_does(message: Message, size: int) -> None:
    assert MESSAGE_BYTES - room_beside(message) == size


def test_push_pull_tells_what_was_signed_before_what_is_believed() -> None:
    me = member_of(*OTHERS, D)
    hear(me, alive(A, 1), alive(B, 1), left(C, 0), suspect(A, 1, B), suspect(D))
    hear(me, dead(D, by=B), at=RIPE_S)
    assert me.state(D) is DEAD
    assert me.digest_updates([A, B, C, D, E]) == [
        alive(A, 1),
        suspect(A, 1, B),
        alive(B, 1),
        left(C, 0),
        suspect(D, by=ME),  # two halves that meet again must not kill each other
    ]


def test_push_pull_tells_of_myself_what_my_record_does_not() -> None:
    me = member_of(*OTHERS)
    assert me.digest_updates([ME]) == []
    hear(me, suspect(ME))
    assert me.digest_updates([ME]) == [alive(ME, 1)]


# leaving


def test_a_goodbye_goes_to_one_burst_and_ends_everything() -> None:
    others = [PeerId(f"p{number}") for number in range(50)]
    me = member_of(*others)
    effects = me.leave(1.0)
    assert len({datagram.to for datagram in effects.datagrams}) == GOODBYES * LAN.gossip_fanout
    assert all(d.updates == (left(ME, 0),) for d in effects.datagrams)
    assert me.next_wake() == inf
    assert me.tick(5.0) == me.leave(5.0) == me.cut(others[0], 5.0) == Effects()
    assert me.probe(others[0], 5.0) == me.learn(others[0], EPOCH, 5.0) == Effects()


def test_who_left_refutes_nothing_and_tells_those_who_ping_it() -> None:
    me = member_of(*OTHERS)
    me.leave(1.0)
    assert hear(me, suspect(ME), dead(ME), left(ME, 0)) == Effects()
    assert me.incarnation == EPOCH
    (answer,) = me.receive(B, Ping(4, ME), (), 1.1).datagrams
    assert answer == Datagram(B, Ack(4, None), (left(ME, 0),))


def test_an_epoch_leaves_room_for_refutations() -> None:
    assert EPOCH == 1 << beliefs.EPOCH_SHIFT
