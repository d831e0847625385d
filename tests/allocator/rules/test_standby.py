from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.rules.standby import Bounds, Habit, Resting, Shortage, value, victims
from overlay.names import InstanceId

ONE = Resting(InstanceId("one"), since=10, memory_mib=50, saved_s=0.5, gap_s=60, left_s=300)

pools = st.lists(
    st.builds(
        Resting,
        id=st.from_regex(r"[a-z]{6}", fullmatch=True).map(InstanceId),
        since=st.floats(0, 1000),
        memory_mib=st.integers(1, 200),
        saved_s=st.floats(-0.1, 30),
        gap_s=st.floats(0.01, 10_000),
        left_s=st.floats(-1, 1000),
    ),
    max_size=8,
    unique_by=lambda r: r.id,
)
shortages = st.builds(Shortage, st.integers(0, 600), st.integers(0, 6))


def test_worth_most_is_what_is_slow_to_start_asked_for_often_and_small() -> None:
    assert value(replace(ONE, saved_s=5)) > value(ONE)
    assert value(replace(ONE, gap_s=10)) > value(ONE)
    assert value(replace(ONE, memory_mib=10)) > value(ONE)
    assert value(replace(ONE, left_s=1)) < value(ONE)


def test_the_value_is_the_expected_saving_for_each_mib() -> None:
    assert value(ONE) == pytest.approx(0.5 * (1 - 2.718281828 ** (-300 / 60)) / 50)


def test_a_habit_is_followed_and_silence_makes_it_count_for_less() -> None:
    habit = Habit(last=0)
    assert habit.expected_gap_s(1) == 60
    for n in range(1, 20):
        habit.asked(n * 5)
    assert habit.expected_gap_s(95) == pytest.approx(5)
    assert habit.expected_gap_s(95 + 200) == 200


def test_the_one_that_rests_longest_goes_first_among_equals() -> None:
    older = replace(ONE, id=InstanceId("older"), since=5)
    assert victims([ONE, older], Shortage(instances=1)) == ["older"]


def test_a_small_one_is_spared_when_the_next_gives_enough_alone() -> None:
    small = replace(ONE, id=InstanceId("small"), memory_mib=5, saved_s=0.001)
    large = replace(ONE, id=InstanceId("large"), memory_mib=500)
    assert victims([small, large], Shortage(memory_mib=400)) == ["large"]


@given(pools, shortages)
def test_victims_make_good_what_is_short_if_all_together_can_and_none_goes_in_vain(
    pool: list[Resting], shortage: Shortage
) -> None:
    chosen = victims(pool, shortage)
    by_id = {r.id: r for r in pool}

    def suffices(ids: tuple[InstanceId, ...]) -> bool:
        freed = sum(by_id[i].memory_mib for i in ids)
        return freed >= shortage.memory_mib and len(ids) >= shortage.instances

    assert len(chosen) == len(set(chosen))
    if suffices(tuple(by_id)):
        assert suffices(tuple(chosen))
        fewer = combinations(chosen, len(chosen) - 1) if chosen else ()
        assert not any(suffices(those) for those in fewer)
    else:
        assert set(chosen) == set(by_id)


@given(pools, st.integers(0, 6))
def test_where_only_their_number_counts_those_of_the_lowest_value_go(
    pool: list[Resting], count: int
) -> None:
    chosen = set(victims(pool, Shortage(instances=count)))
    kept = [value(r) for r in pool if r.id not in chosen]
    gone = [value(r) for r in pool if r.id in chosen]
    assert not kept or not gone or max(gone) <= min(kept)


@given(pools, st.integers(0, 300), st.integers(0, 6))
def test_without_its_victims_a_pool_is_within_its_bounds(
    pool: list[Resting], memory_mib: int, instances: int
) -> None:
    bounds = Bounds(memory_mib, instances)
    gone = victims(pool, bounds.excess(pool))
    assert not bounds.excess([r for r in pool if r.id not in gone])
