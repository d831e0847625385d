from hypothesis import given
from hypothesis import strategies as st

from allocator.serving.offers import HOLD_S, MAX_HELD, MAX_HELD_OF_A_PEER, Held
from overlay.allocation import OfferRequest
from overlay.names import PeerId, ServiceName
from overlay.records import Room

ROOM = Room(cpu_millicores=1000, memory_mib=100, instances=3)
ALICE, BOB = PeerId("alice"), PeerId("bob")


def request(name: str = "hello", cpu: int = 400, memory: int = 10) -> OfferRequest:
    return OfferRequest(
        service=ServiceName(name), revision=1, cpu_millicores=cpu, memory_mib=memory
    )


def test_what_was_offered_to_one_is_not_offered_to_the_next_for_a_moment() -> None:
    held = Held()
    assert held.offer(ALICE, request(), ROOM, 0.0) == (ROOM, 0)
    left = Room(cpu_millicores=600, memory_mib=90, instances=2)
    assert held.offer(BOB, request(), ROOM, 0.5) == (left, 1)
    assert held.offer(PeerId("late"), request(), ROOM, 0.5 + HOLD_S) == (ROOM, 0)


def test_who_asks_again_or_came_holds_nothing_twice() -> None:
    held = Held()
    held.offer(ALICE, request(), ROOM, 0.0)
    assert held.offer(ALICE, request(), ROOM, 0.0) == (ROOM, 0)
    held.taken(ALICE, ServiceName("hello"), 1)
    assert held.offer(BOB, request(), ROOM, 0.0) == (ROOM, 0)


def test_what_is_offered_is_never_less_than_nothing() -> None:
    held = Held()
    for number in range(5):
        room, _ = held.offer(PeerId(f"p{number}"), request(cpu=900, memory=90), ROOM, 0.0)
    assert room == Room(cpu_millicores=0, memory_mib=0, instances=0)


def test_one_peer_cannot_set_everything_aside() -> None:
    held = Held()
    for number in range(100):
        held.offer(ALICE, request(f"s{number}", cpu=1, memory=1), ROOM, 0.0)
    _, before = held.offer(BOB, request(), ROOM, 0.0)
    assert before == MAX_HELD_OF_A_PEER


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20), st.floats(0, 3))))
def test_a_bounded_number_is_held_and_none_longer_than_a_second(
    asks: list[tuple[int, int, float]],
) -> None:
    held, now = Held(), 0.0
    for peer, name, pause_s in asks:
        now += pause_s
        _, before = held.offer(PeerId(f"p{peer}"), request(f"s{name}"), ROOM, now)
        assert before < MAX_HELD
    assert held.offer(ALICE, request(), ROOM, now + HOLD_S) == (ROOM, 0)
