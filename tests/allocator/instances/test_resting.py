from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from allocator.instances.lifecycle import State
from allocator.instances.resting import (
    Kept,
    Pause,
    Peak,
    Resume,
    Sibling,
    Standing,
    Stop,
    Wait,
    Why,
    next_step,
    surplus,
)
from overlay.names import InstanceId

IDLE = Standing(State.READY, False, 0, idle_since=100, idle_pause_s=30, idle_stop_s=300)
PAUSED = replace(IDLE, state=State.PAUSED)

standings = st.builds(
    Standing,
    state=st.sampled_from([State.READY, State.PAUSED]),
    wanted=st.booleans(),
    load=st.integers(0, 3),
    idle_since=st.floats(0, 1000),
    idle_pause_s=st.sampled_from([0.0, 1.0, 30.0, 500.0]),
    idle_stop_s=st.sampled_from([1.0, 30.0, 300.0]),
    surplus=st.booleans(),
    kept=st.sampled_from(Kept),
    pausable_at=st.sampled_from([0.0, 500.0, inf]),
    unwanted=st.sampled_from(["", Why.OUTDATED]),
)


def test_an_instance_is_paused_and_later_stopped_counted_from_the_last_request() -> None:
    assert next_step(IDLE, 129.9) == Wait(until=130)
    assert next_step(IDLE, 130) == Pause(Why.IDLE)
    assert next_step(PAUSED, 131) == Wait(until=400)
    assert next_step(PAUSED, 400) == Stop(Why.IDLE)


def test_one_that_may_never_be_paused_is_only_stopped() -> None:
    assert next_step(replace(IDLE, idle_pause_s=0), 130) == Wait(until=400)
    assert next_step(replace(IDLE, pausable_at=inf), 130) == Wait(until=400)
    assert next_step(replace(IDLE, idle_pause_s=500), 130) == Wait(until=400)


def test_what_is_kept_is_not_stopped_and_paused_only_if_it_may() -> None:
    assert next_step(replace(IDLE, kept=Kept.RUNNING), 10_000) == Wait()
    assert next_step(replace(IDLE, kept=Kept.PAUSED), 10_000) == Pause(Why.IDLE)
    assert next_step(replace(PAUSED, kept=Kept.PAUSED), 10_000) == Wait()


def test_one_that_somebody_waits_for_is_resumed_rather_than_stopped() -> None:
    assert next_step(replace(PAUSED, wanted=True), 400) == Resume()


@given(standings, st.floats(0, 2000))
def test_nothing_with_a_request_rests_unless_others_take_over_or_it_must_go(
    standing: Standing, now: float
) -> None:
    step = next_step(standing, now)
    if standing.state is State.READY and standing.load and not standing.unwanted:
        assert standing.surplus or isinstance(step, Wait)


@given(standings, st.floats(0, 2000))
def test_a_wait_is_never_for_what_is_past_and_its_end_brings_something_else(
    standing: Standing, now: float
) -> None:
    step = next_step(standing, now)
    if isinstance(step, Wait):
        assert step.until > now
        if step.until < inf:
            assert not isinstance(next_step(standing, step.until), Wait)


@given(standings, st.floats(0, 2000))
def test_what_is_kept_goes_only_when_it_must(standing: Standing, now: float) -> None:
    if standing.kept is not Kept.NOT and not standing.unwanted:
        assert not isinstance(next_step(standing, now), Stop)


loads = st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 9)), max_size=40)


@given(loads, st.floats(0, 30))
def test_the_peak_forgets_nothing_within_a_window_and_everything_after_two(
    changes: list[tuple[float, int]], after: float
) -> None:
    window_s = 10.0
    peak = Peak(window_s, since=0.0)
    now, history = 0.0, [(0.0, 0)]
    for wait, load in changes:
        now += wait
        peak.set(load, now)
        history.append((now, load))
    now += after
    ends = [at for at, _ in history[1:]] + [now]

    def highest(back_s: float) -> int:
        """The dumb version: of every load that was there within the last `back_s` seconds."""
        return max(load for (_, load), end in zip(history, ends, strict=True) if end > now - back_s)

    history.append((now, history[-1][1]))
    history.pop()
    assert peak.over(now) <= max(highest(2 * window_s + 1e-6), history[-1][1])
    assert peak.over(now) >= max(highest(window_s - 1e-6), history[-1][1]) if changes else True


def running(*loads: int, kept: Kept = Kept.NOT) -> list[Sibling]:
    return [Sibling(InstanceId(f"i{n}"), load, float(n), kept) for n, load in enumerate(loads)]


def test_the_youngest_of_the_least_busy_is_surplus_if_the_others_have_room_to_spare() -> None:
    assert surplus(running(40, 0, 0), 100, peak=160) == "i2"
    assert surplus(running(40, 0, 0), 100, peak=161) is None
    assert surplus(running(0, 0), 1, peak=1) == "i1"
    assert surplus(running(1, 1), 1, peak=2) is None


def test_the_only_one_and_those_that_are_kept_running_are_never_surplus() -> None:
    assert surplus(running(0), 100, peak=0) is None
    assert surplus(running(0, 0, kept=Kept.RUNNING), 100, peak=0) is None
    assert surplus(running(0, 0, kept=Kept.PAUSED), 100, peak=0) == "i1"


@given(st.lists(st.integers(0, 10), min_size=1, max_size=6), st.integers(1, 10))
def test_what_remains_always_carries_the_peak(loads: list[int], concurrency: int) -> None:
    peak = sum(loads)
    if surplus(running(*loads), concurrency, peak) is not None:
        assert (len(loads) - 1) * concurrency >= peak
