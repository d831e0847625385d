from collections.abc import Hashable
from itertools import combinations
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from myxo.mapping.turns import Turns

L = TypeVar("L", bound=Hashable)
LONGEST_S = 0.5


def next_of(turns: Turns[L]) -> L:
    lane = turns.next()
    assert lane is not None
    return lane


def test_lanes_with_equal_turns_alternate() -> None:
    turns = Turns[str]()
    for lane in "abc":
        turns.ready(lane)
    had = []
    for _ in range(6):
        lane = next_of(turns)
        turns.used(lane, 0.1, more=True)
        had.append(lane)
    assert had == list("abcabc")


def test_a_lane_that_comes_late_is_next_and_makes_up_for_nothing() -> None:
    turns = Turns[str]()
    turns.ready("long")
    for _ in range(1000):
        assert turns.next() == "long"
        turns.used("long", 0.1, more=True)
    turns.ready("short")
    had = []
    for _ in range(10):
        lane = next_of(turns)
        turns.used(lane, 0.1, more=True)
        had.append(lane)
    assert had.count("short") in {5, 6}
    assert "short" in had[:2]


def test_a_lane_with_nothing_to_compute_has_no_turn() -> None:
    turns = Turns[str]()
    turns.ready("a")
    assert turns.next() == "a"
    turns.used("a", 1.0, more=False)
    assert turns.next() is None
    turns.ready("b")
    turns.leave("b")
    turns.used("b", 1.0, more=True)
    assert turns.next() is None


turns_taken = st.lists(st.floats(0.001, LONGEST_S), min_size=1, max_size=200)


@given(lanes=st.integers(2, 5), seconds=turns_taken, idle_after=st.sets(st.integers(0, 199)))
def test_shares_of_lanes_that_have_work_differ_by_a_turn_of_each(
    lanes: int, seconds: list[float], idle_after: set[int]
) -> None:
    turns = Turns[int]()
    had = dict.fromkeys(range(lanes), 0.0)
    # Lane 0 has nothing now and then; the others always have work and are compared.
    for lane in had:
        turns.ready(lane)
    for at, length in enumerate(seconds):
        lane = next_of(turns)
        pauses = lane == 0 and at in idle_after
        turns.used(lane, length, more=not pauses)
        had[lane] += length
        if not pauses:
            turns.ready(0)
        for one, other in combinations(range(1, lanes), 2):
            assert abs(had[one] - had[other]) <= 2 * LONGEST_S + 1e-9
        assert had[0] <= min(had[lane] for lane in range(1, lanes)) + 2 * LONGEST_S + 1e-9


@given(lanes=st.integers(1, 6), seconds=turns_taken)
def test_no_lane_waits_longer_than_the_others_turns(lanes: int, seconds: list[float]) -> None:
    turns = Turns[int]()
    for lane in range(lanes):
        turns.ready(lane)
    waited = dict.fromkeys(range(lanes), 0.0)
    for length in seconds:
        lane = next_of(turns)
        waited[lane] = 0.0
        turns.used(lane, length, more=True)
        for other in waited:
            if other != lane:
                waited[other] += length
        # What others get in between is what this one has had more than they, and a turn of each.
        assert max(waited.values()) <= 2 * LONGEST_S * lanes
