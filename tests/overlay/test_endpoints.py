from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import endpoints
from overlay.endpoints import (
    DOUBT_AFTER,
    MAX_CANDIDATES,
    RETRY_FIRST_S,
    RETRY_MOST_S,
    STRANGER_S,
    TRIES,
    Endpoint,
    Endpoints,
    Reach,
    candidates,
)
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.records import PeerRecord, Role, Version

PEER, OTHER = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(2))
NEAR, FAR, MOVED = (Endpoint(f"192.0.2.{n}", 4001) for n in range(1, 4))


def known(*places: Endpoint) -> Endpoints:
    made = Endpoints()
    made.know(PEER, places, 0.0)
    return made


def ask(made: Endpoints, now: float = 0.0) -> Endpoint | None:
    return made.way(PEER, now, wants_answer=True).endpoint


def test_a_peer_without_addresses_is_sent_nothing_until_it_speaks() -> None:
    made = known()
    assert ask(made) is None
    assert made.way(OTHER, 0.0, wants_answer=True).endpoint is None
    made.heard(PEER, NEAR)
    assert ask(made) == NEAR


def test_addresses_are_tried_in_turn_until_one_answers() -> None:
    made = known(NEAR, FAR)
    assert [ask(made) for _ in range(3)] == [NEAR, FAR, NEAR]
    assert made.reach(PEER) is Reach.UNTRIED
    made.heard(PEER, FAR)
    made.answered(PEER)
    assert made.reach(PEER) is Reach.OPEN
    assert [ask(made) for _ in range(2)] == [FAR, FAR]


def test_what_wants_no_answer_goes_to_where_the_peer_was_heard_from_and_proves_nothing() -> None:
    made = known(NEAR, FAR)
    for _ in range(100):
        assert made.way(PEER, 0.0, wants_answer=False).endpoint == NEAR
    made.heard(PEER, FAR)
    assert made.way(PEER, 0.0, wants_answer=False).endpoint == FAR
    assert made.reach(PEER) is Reach.UNTRIED


def test_only_an_answer_makes_sure_and_silence_takes_it_back() -> None:
    made = known(NEAR)
    assert not made.way(PEER, 0.0, wants_answer=True).sure
    made.heard(PEER, NEAR)
    assert not made.way(PEER, 0.0, wants_answer=True).sure
    made.answered(PEER)
    sure = [made.way(PEER, 0.0, wants_answer=True).sure for _ in range(DOUBT_AFTER + 1)]
    assert sure == [True] * DOUBT_AFTER + [False]


def test_a_peer_that_moved_is_followed_and_its_other_addresses_are_kept() -> None:
    made = known(NEAR, FAR)
    made.heard(PEER, MOVED)
    made.answered(PEER)
    asked = [ask(made) for _ in range(DOUBT_AFTER + 4)]
    assert asked == [MOVED] * DOUBT_AFTER + [MOVED, NEAR, FAR, MOVED]


def given_up(made: Endpoints) -> int:
    """Ask until nothing is sent any more; return how often that was."""
    for n in range(1000):
        if ask(made) is None:
            return n
    raise AssertionError("it is never given up")


@pytest.mark.parametrize("places", [(NEAR,), (NEAR, FAR), (NEAR, FAR, MOVED)])
def test_silence_shuts_the_way_after_a_bounded_number_of_tries(
    places: Sequence[Endpoint],
) -> None:
    made = known(*places)
    assert given_up(made) == DOUBT_AFTER + TRIES * len(places)
    assert made.reach(PEER) is Reach.SHUT


def test_a_shut_way_is_knocked_at_ever_less_often() -> None:
    made = known(NEAR)
    given_up(made)
    knocks = [now for now in range(3600) if ask(made, float(now)) is not None]
    assert knocks[0] == RETRY_FIRST_S
    waits = [later - earlier for earlier, later in zip([0, *knocks], knocks, strict=False)]
    assert waits == sorted(waits)
    assert max(waits) == RETRY_MOST_S


@pytest.mark.parametrize("event", ["heard", "answered", "addresses", "restarted"])
def test_a_shut_way_is_tried_again_at_once_when_there_is_news(event: str) -> None:
    made = known(NEAR)
    given_up(made)
    match event:
        case "heard":
            made.heard(PEER, MOVED)
        case "answered":
            made.answered(PEER)
        case "addresses":
            made.know(PEER, [FAR], 0.0)
        case _:
            made.restarted(PEER, 0.0)
    assert ask(made) is not None
    given_up(made)
    assert ask(made, RETRY_FIRST_S) is not None


def test_the_same_addresses_again_are_no_news() -> None:
    made = known(NEAR)
    given_up(made)
    made.know(PEER, [NEAR], 0.0)
    assert ask(made) is None


def test_a_restarted_peer_is_not_looked_for_where_the_last_process_was_heard() -> None:
    made = known(NEAR)
    made.heard(PEER, MOVED)
    made.answered(PEER)
    made.restarted(PEER, 0.0)
    assert (ask(made), made.reach(PEER)) == (NEAR, Reach.UNTRIED)


def is_stranger(made: Endpoints, now: float) -> bool:
    return made.way(PEER, now, wants_answer=True).stranger


def test_who_became_known_a_moment_ago_is_a_stranger_until_it_is_heard() -> None:
    made = known(NEAR)
    assert is_stranger(made, STRANGER_S / 2)
    assert not is_stranger(made, STRANGER_S)
    made.restarted(PEER, 100.0)
    assert is_stranger(made, 101.0)
    made.heard(PEER, NEAR)
    assert not is_stranger(made, 101.0)


@pytest.mark.parametrize("peer", [PEER, OTHER])
def test_a_forgotten_or_unknown_peer_is_never_sent_to(peer: PeerId) -> None:
    made = known(NEAR)
    made.forget(PEER)
    made.heard(peer, NEAR)
    made.answered(peer)
    made.restarted(peer, 0.0)
    assert made.way(peer, 0.0, wants_answer=True).endpoint is None


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_OWNERS", 3)
    made = Endpoints()
    for n in range(10):
        made.know(Identity.from_seed(bytes([n]) * 32).peer_id, [NEAR], 0.0)
    assert len(made._peers) == 3


steps = st.lists(st.sampled_from(["ask", "say", "near", "far", "answered", "wait"]), max_size=80)


@given(steps=steps)
def test_an_answered_peer_is_believed_open_for_exactly_its_next_tries(
    steps: Sequence[str],
) -> None:
    """The dumb version: count what was asked since the last answer."""
    made, now, since, ever = known(NEAR, FAR), 0.0, 0, False
    for step in steps:
        match step:
            case "ask":
                way = made.way(PEER, now, wants_answer=True)
                assert way.sure == (ever and since < DOUBT_AFTER)
                since += way.endpoint is not None
            case "say":
                made.way(PEER, now, wants_answer=False)
            case "answered":
                made.answered(PEER)
                since, ever = 0, True
            case "wait":
                now += RETRY_FIRST_S
            case _:
                made.heard(PEER, NEAR if step == "near" else FAR)


def record(*addresses: str, port: int = 4001) -> PeerRecord:
    version = Version(epoch=1.0, counter=0)
    return PeerRecord(
        version=version, role=Role.PROXY, host="h", addresses=addresses, datagram_port=port
    )


def test_candidates_are_the_records_addresses_at_its_datagram_port() -> None:
    said = record("/ip4/192.0.2.1/tcp/9999", "/ip6/2001:DB8::1/tcp/9999")
    assert candidates(said) == (Endpoint("192.0.2.1", 4001), Endpoint("2001:db8::1", 4001))
    assert candidates(said, ["192.0.2.2"])[0] == Endpoint("192.0.2.2", 4001)
    assert candidates(said, ["192.0.2.1"]) == candidates(said)


def test_a_peer_without_a_datagram_port_has_no_candidates() -> None:
    assert candidates(record("/ip4/192.0.2.1/tcp/4001", port=0), ["192.0.2.2"]) == ()


@pytest.mark.parametrize(
    "address",
    [
        "/dns4/host.example/tcp/4001",
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "nonsense",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/255.255.255.255/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/ip6/ff02::1/tcp/1",
    ],
)
def test_what_is_not_one_machines_address_is_no_candidate(address: str) -> None:
    assert candidates(record(address, "/ip4/192.0.2.9/tcp/1")) == (Endpoint("192.0.2.9", 4001),)


def test_no_peer_makes_others_try_any_number_of_addresses() -> None:
    said = record(*(f"/ip4/192.0.2.{n}/tcp/1" for n in range(32)))
    assert len(candidates(said)) == MAX_CANDIDATES
    made = Endpoints()
    made.know(PEER, [Endpoint(f"192.0.2.{n}", 1) for n in range(32)], 0.0)
    assert len({ask(made) for _ in range(given_up_after(MAX_CANDIDATES))}) == MAX_CANDIDATES


def given_up_after(places: int) -> int:
    return DOUBT_AFTER + TRIES * places
