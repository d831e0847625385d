"""The schedule in virtual time, and what must hold whatever workers do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myxo.mapping.given import LaneId
from myxo.mapping.schedule import Schedule
from myxo.mapping.testing import Load, Outcome, Simulation, Worker, constant
from myxo.mapping.turns import TURN_S

ITEM_S = 0.01
ITEM_BYTES = 4


def simulate(
    workers: list[Worker],
    items: int,
    *,
    chunk: int | None = None,
    reports_every: int = 1,
    most_lanes: int = 256,
    weighed: int = 0,
    fails: frozenset[int] = frozenset(),
) -> Outcome:
    """Run one map; one whose first items were weighed has a sequence for its input."""
    schedule = Schedule(chunk=chunk, most_lanes=most_lanes)
    if weighed:
        schedule.weighed(weighed, weighed * ITEM_BYTES)
    load = Load(items, schedule, whole=weighed > 0, fails=fails)
    (outcome,) = Simulation(workers, [load], reports_every).run()
    return outcome


def each_once(outcome: Outcome, items: int) -> bool:
    return outcome.answered == dict.fromkeys(range(items), 1)


workers_that_differ = st.lists(
    st.builds(
        Worker,
        item_s=st.sampled_from([0.0, 1e-6, 1e-3, 0.05]).map(constant),
        one_way_s=st.sampled_from([0.0, 0.0005, 0.05]),
        joins_at=st.sampled_from([0.0, 0.01, 0.3]),
        dies_at=st.sampled_from([None, 0.0, 0.02, 0.2]),
        told_at=st.sampled_from([None, 0.0, 0.03, 0.1]),
        grace_s=st.sampled_from([0.001, 0.1]),
        killed_by=st.frozensets(st.integers(0, 30), max_size=3),
        returns_after_s=st.sampled_from([0.0, 0.1]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200)
@given(
    workers=workers_that_differ,
    items=st.integers(0, 300),
    chunk=st.none() | st.integers(1, 50),
    reports_every=st.integers(1, 20),
    most_lanes=st.sampled_from([1, 2, 256]),
    weighed=st.sampled_from([0, 1, 1024]),
    fails=st.frozensets(st.integers(0, 300), max_size=20),
)
def test_each_index_has_one_outcome_whatever_becomes_of_workers(
    workers: list[Worker],
    items: int,
    chunk: int | None,
    reports_every: int,
    most_lanes: int,
    weighed: int,
    fails: frozenset[int],
) -> None:
    # One that nothing ends, so that the map can end.
    alive = Worker(constant(1e-3), joins_at=0.4)
    outcome = simulate(
        [*workers, alive],
        items,
        chunk=chunk,
        reports_every=reports_every,
        most_lanes=most_lanes,
        weighed=weighed,
        fails=fails,
    )
    assert each_once(outcome, items)


def test_no_items_are_no_work() -> None:
    assert simulate([Worker(constant(ITEM_S))], 0).chunks == 0


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_equal_workers_share_the_work(workers: int) -> None:
    outcome = simulate([Worker(constant(ITEM_S))] * workers, 2000, reports_every=2)
    assert each_once(outcome, 2000)
    assert outcome.ended_at <= 1.04 * 2000 * ITEM_S / workers
    assert outcome.computed <= 2000 + 2 * workers


@pytest.mark.parametrize("one_way_s", [0.01, 0.05, 0.15])
def test_a_far_worker_is_not_idle(one_way_s: float) -> None:
    outcome = simulate([Worker(constant(ITEM_S), one_way_s)] * 2, 2000)
    assert outcome.ended_at <= 1.1 * 2000 * ITEM_S / 2 + 4 * one_way_s


def test_items_that_cost_nothing_go_in_few_chunks() -> None:
    outcome = simulate([Worker(constant(5e-8))] * 2, 20_000, reports_every=20_000)
    assert each_once(outcome, 20_000)
    assert outcome.chunks <= 16


def test_a_sequence_of_items_that_cost_nothing_goes_in_one_round_trip() -> None:
    workers = [Worker(constant(5e-8), one_way_s=0.001)] * 2
    outcome = simulate(workers, 100_000, reports_every=100_000, most_lanes=2, weighed=1024)
    assert each_once(outcome, 100_000)
    assert outcome.chunks == 4
    assert outcome.ended_at == pytest.approx(100_000 * 5e-8 / 2 + 0.002)


def test_what_was_given_out_before_its_time_was_known_is_taken_back() -> None:
    schedule = Schedule(most_lanes=1)
    schedule.offer(4000)
    schedule.close()
    schedule.weighed(1024, 1024 * ITEM_BYTES)
    lane = LaneId(0)
    schedule.join(lane)
    chunks = [schedule.next(lane, 0.0), schedule.next(lane, 0.0)]
    assert [chunk and (chunk.start, chunk.stop) for chunk in chunks] == [(0, 2000), (2000, 4000)]
    assert schedule.next(lane, 0.0) is None
    assert chunks[0] is not None
    schedule.answered(chunks[0], 1, ITEM_S, ITEM_S)
    # What is left of half a second, and nothing of the one behind it.
    told = [(one.chunk, one.stop) for one in schedule.shortenings()]
    assert told == [(0, 51), (1, 2000)]
    assert schedule.waiting == 4000 - 51


def test_a_first_item_that_takes_long_does_not_have_the_others_cut_small() -> None:
    # As one does that has a worker import something.
    workers = [Worker(lambda index: 5e-8 if index else 1e-3)] * 2
    outcome = simulate(workers, 20_000, reports_every=20_000)
    assert each_once(outcome, 20_000)
    assert outcome.chunks <= 20


@pytest.mark.parametrize("workers", [2, 8, 32])
def test_a_few_long_items_of_a_sequence_are_computed_at_once(workers: int) -> None:
    outcome = simulate([Worker(constant(1.0))] * workers, workers, weighed=1)
    assert outcome.ended_at <= 1.01


def test_what_was_given_out_before_its_time_was_known_goes_to_workers_that_come_later() -> None:
    late = Worker(constant(ITEM_S), joins_at=0.1)
    workers = [Worker(constant(ITEM_S)), late, late, late]
    outcome = simulate(workers, 1000, reports_every=2, most_lanes=1, weighed=1024)
    assert each_once(outcome, 1000)
    assert outcome.ended_at <= 1.05 * (0.1 + (1000 * ITEM_S - 0.1) / 4)


@pytest.mark.parametrize("weighed", [0, 1024])
@pytest.mark.parametrize("slow_first", [True, False])
@pytest.mark.parametrize("items", [400, 1000])
def test_a_worker_ten_times_slower_does_not_hold_the_others_up(
    items: int, slow_first: bool, weighed: int
) -> None:
    workers = [Worker(constant(ITEM_S))] * 3
    workers.insert(0 if slow_first else 3, Worker(constant(10 * ITEM_S)))
    outcome = simulate(workers, items, reports_every=2, most_lanes=4, weighed=weighed)
    assert each_once(outcome, items)
    assert outcome.ended_at <= 1.05 * items * ITEM_S / 3.1


def test_a_worker_that_gets_stuck_does_not_hold_the_others_up() -> None:
    stuck = Worker(lambda index: ITEM_S if index < 100 else 1e6)
    outcome = simulate([Worker(constant(ITEM_S))] * 3 + [stuck], 1000)
    assert each_once(outcome, 1000)
    assert outcome.ended_at <= 1.15 * 1000 * ITEM_S / 3


def test_costs_that_grow_are_shared_too() -> None:
    outcome = simulate([Worker(lambda index: index * 1e-4)] * 4, 1000)
    assert outcome.ended_at <= 1.1 * sum(index * 1e-4 for index in range(1000)) / 4


def test_a_worker_that_dies_half_way_costs_its_share() -> None:
    workers = [Worker(constant(ITEM_S))] * 3 + [Worker(constant(ITEM_S), dies_at=1.25)]
    outcome = simulate(workers, 1000)
    assert each_once(outcome, 1000)
    undisturbed_s = 1000 * ITEM_S / 4
    assert outcome.ended_at <= 1.3 * undisturbed_s


def test_an_item_that_kills_workers_is_abandoned_and_sinks_no_other() -> None:
    poison = frozenset({371})
    workers = [Worker(constant(1e-3), killed_by=poison, returns_after_s=0.1)] * 3
    outcome = simulate(workers, 1000, reports_every=10)
    assert outcome.abandoned == [371]
    assert each_once(outcome, 1000)


def test_a_late_worker_takes_part() -> None:
    late = Worker(constant(ITEM_S), joins_at=1.0)
    outcome = simulate([Worker(constant(ITEM_S)), late], 600)
    assert outcome.ended_at <= 1.05 * (1.0 + (600 * ITEM_S - 1.0) / 2)


@given(st.integers(1, 40), st.integers(1, 3))
def test_chunks_of_a_given_size_have_that_size(chunk: int, workers: int) -> None:
    outcome = simulate([Worker(constant(ITEM_S))] * workers, 400, chunk=chunk)
    assert each_once(outcome, 400)
    assert outcome.chunks >= -(-400 // chunk)


# Several maps on the same workers


@settings(max_examples=100)
@given(
    workers=workers_that_differ,
    items=st.lists(st.integers(0, 150), min_size=2, max_size=3),
    begin=st.lists(st.sampled_from([0.0, 0.05, 0.5]), min_size=3, max_size=3),
    chunk=st.none() | st.integers(1, 50),
)
def test_each_index_of_each_map_has_one_outcome_whatever_becomes_of_workers(
    workers: list[Worker], items: list[int], begin: list[float], chunk: int | None
) -> None:
    alive = Worker(constant(1e-3), joins_at=0.4)
    loads = [
        Load(count, Schedule(chunk=chunk), begins_at)
        for count, begins_at in zip(items, begin, strict=False)
    ]
    for count, outcome in zip(items, Simulation([*workers, alive], loads).run(), strict=True):
        assert each_once(outcome, count)


@settings(max_examples=20, deadline=None)
@given(
    costs=st.tuples(st.sampled_from([0.5, 1.0, 10.0]), st.sampled_from([0.5, 1.0, 10.0])),
    chunk=st.sampled_from([None, 20, 1000]),
    one_way_s=st.sampled_from([0.0005, 0.02]),
    workers=st.integers(1, 2),
    begins_at=st.sampled_from([0.0, 0.33, 2.0]),
)
def test_maps_on_the_same_workers_share_them_evenly(
    costs: tuple[float, float],
    chunk: int | None,
    one_way_s: float,
    workers: int,
    begins_at: float,
) -> None:
    lasts_s = 6.0
    first, second = (
        Load(int(lasts_s * workers / (ITEM_S * cost)), Schedule(chunk=kind), at, cost)
        for cost, kind, at in zip(costs, (None, chunk), (0.0, begins_at), strict=True)
    )
    outcomes = Simulation([Worker(constant(ITEM_S), one_way_s)] * workers, [first, second]).run()
    until = min(outcome.ended_at for outcome in outcomes)
    shares = [outcome.busy_s(begins_at, until) for outcome in outcomes]
    assert min(shares) >= 0.4 * sum(shares)
    assert sum(shares) >= 0.8 * workers * (until - begins_at)


@settings(max_examples=20, deadline=None)
@given(
    others=st.integers(1, 3),
    cost=st.sampled_from([0.5, 1.0, 20.0]),
    chunk=st.sampled_from([None, 1, 10_000]),
    workers=st.integers(1, 3),
)
def test_a_small_map_does_not_wait_for_the_end_of_long_ones(
    others: int, cost: float, chunk: int | None, workers: int
) -> None:
    long = [Load(int(8 / (ITEM_S * cost)), Schedule(chunk=chunk), 0.0, cost)] * others
    long = [replace(load, schedule=Schedule(chunk=chunk)) for load in long]
    small = Load(20, Schedule(), begins_at=1.0)
    *_, outcome = Simulation([Worker(constant(ITEM_S))] * workers, [*long, small]).run()
    # A turn of each of the others, and their item that is under way, before each of its chunks.
    round_s = others * (TURN_S + ITEM_S * cost) + TURN_S
    assert outcome.ended_at - 1.0 <= outcome.chunks * round_s


# What is not to blame


@pytest.mark.parametrize("tell", [Schedule.leaves, lambda s, lane: s.away(lane, 0.0)])
def test_an_item_is_not_abandoned_for_workers_that_ended_for_other_reasons(
    tell: Callable[[Schedule, LaneId], None],
) -> None:
    schedule = Schedule(chunk=1)
    schedule.offer(1)
    schedule.close()
    for number in range(10):
        lane = LaneId(number)
        schedule.join(lane)
        assert schedule.next(lane, 0.0) is not None
        tell(schedule, lane)
        assert schedule.lost(lane) == []
    assert schedule.waiting == 1


@given(
    kills=st.frozensets(st.integers(0, 30), min_size=1, max_size=3),
    one_way_s=st.sampled_from([0.0, 0.0005, 0.05]),
    workers=st.integers(1, 3),
    others_first=st.booleans(),
    chunk=st.sampled_from([None, 1]),
)
def test_of_several_maps_only_the_items_that_end_workers_are_abandoned(
    *,
    kills: frozenset[int],
    one_way_s: float,
    workers: int,
    others_first: bool,
    chunk: int | None,
) -> None:
    killing = Load(40, Schedule(), kills=kills)
    other = Load(60, Schedule(chunk=chunk))
    loads = [other, killing] if others_first else [killing, other]
    fragile = Worker(constant(1e-3), one_way_s, returns_after_s=0.05)
    outcomes = dict(zip(loads, Simulation([fragile] * workers, loads).run(), strict=True))
    assert set(outcomes[killing].abandoned) == kills
    assert outcomes[other].abandoned == []


def test_a_worker_that_is_to_end_gets_nothing_more() -> None:
    schedule = Schedule()
    schedule.offer(10)
    schedule.join(LaneId(0))
    schedule.leaves(LaneId(0))
    assert schedule.next(LaneId(0), 0.0) is None
    assert schedule.look_again_at(LaneId(0), 0.0) is None


def test_time_in_which_a_worker_is_away_counts_for_no_chunk() -> None:
    lane = LaneId(0)
    schedule = Schedule(chunk=1)
    schedule.offer(2)
    schedule.close()
    schedule.join(lane)
    for begun in (0.0, 10.0):
        chunk = schedule.next(lane, begun)
        assert chunk is not None
        schedule.away(lane, begun + 1)
        schedule.back(lane, begun + 5)
        schedule.answered(chunk, chunk.stop, 0.5, begun + 5.6)
    assert schedule._pace.cost_s == pytest.approx(1.1)


def test_lanes_ask_anew_only_if_there_may_be_something_for_them() -> None:
    busy, done, lost = LaneId(0), LaneId(1), LaneId(2)
    schedule = Schedule(chunk=10)
    schedule.offer(30)
    schedule.close()
    for lane in (busy, done, lost):
        schedule.join(lane)
    chunks = [schedule.next(lane, 0.0) for lane in schedule.stirred()]
    assert schedule.stirred() == []

    assert chunks[0] is not None
    assert chunks[1] is not None
    schedule.answered(chunks[0], 5, 0.5, 0.5)
    assert schedule.stirred() == []  # nobody has anything that it could be given
    schedule.answered(chunks[1], 20, 1.0, 1.0)
    assert schedule.stirred() == [done]
    schedule.lost(lost)
    assert schedule.stirred() == [busy, done]

    while not schedule.finished:
        chunk = schedule.next(done, 1.0)
        assert chunk is not None
        schedule.answered(chunk, chunk.stop, 0.1, 1.0)
    assert schedule.stirred() == []


def test_an_item_that_is_to_be_tried_again_is_not_given_out_beside_the_one_who_has_it() -> None:
    victim, thief, idle = LaneId(0), LaneId(1), LaneId(2)
    schedule = Schedule(chunk=10)
    schedule.offer(10)
    schedule.close()
    for lane in (victim, thief, idle):
        schedule.join(lane)
    chunk, tail = schedule.next(victim, 0.0), schedule.next(thief, 0.0)
    assert chunk is not None
    assert tail is not None
    assert (tail.start, tail.stop) == (5, 10)
    # The word to stop at 5 is still under way, and 5 raised there.
    assert schedule.answered(chunk, 6, 0.6, 0.6, again=[5]) == [range(5)]
    assert schedule.waiting == 0
    assert schedule.answered(tail, 10, 0.4, 0.7) == [range(5, 10)]
    assert schedule.finished


def test_what_came_back_is_given_out_even_where_nothing_fresh_may_be() -> None:
    stays, goes = LaneId(0), LaneId(1)
    schedule = Schedule(chunk=10)
    schedule.offer(30)
    schedule.close()
    schedule.join(stays)
    schedule.join(goes)
    assert schedule.next(goes, 0.0) is not None
    schedule.lost(goes)
    given: list[int] = []
    while (chunk := schedule.next(stays, 0.0, fresh=False)) is not None:
        given += range(chunk.start, chunk.stop)
        schedule.answered(chunk, chunk.stop, 0.1, 0.1)
    assert given == list(range(10))
    assert schedule.look_again_at(stays, 0.2, fresh=False) is None
    assert schedule.next(stays, 0.2) is not None


@given(st.integers(1, 60), st.data())
def test_of_a_chunk_that_cannot_be_read_the_item_to_blame_is_found(
    items: int, data: st.DataObject
) -> None:
    bad = data.draw(st.frozensets(st.integers(0, items - 1), max_size=3))
    lane, schedule = LaneId(0), Schedule(chunk=items)
    schedule.offer(items)
    schedule.close()
    schedule.join(lane)
    blamed: list[int] = []
    fine: list[int] = []
    while (chunk := schedule.next(lane, 0.0)) is not None:
        given = range(chunk.start, chunk.stop)
        if bad.isdisjoint(given):
            fine += given
            schedule.answered(chunk, chunk.stop, 0.1, 0.1)
        elif (index := schedule.unreadable(chunk, 0.1)) is not None:
            blamed.append(index)
    assert schedule.finished
    assert sorted(blamed) == sorted(bad)
    assert sorted([*fine, *blamed]) == list(range(items))
