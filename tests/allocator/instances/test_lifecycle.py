import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.instances.lifecycle import (
    ENDS,
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    apply,
    published,
)
from overlay.records import InstanceState

LIFE = [
    (Event.ADMITTED, State.CREATING),
    (Event.CREATED, State.STARTING),
    (Event.ACCEPTS, State.READY),
    (Event.DRAIN, State.DRAINING),
    (Event.REMOVED, State.STOPPED),
]


def test_an_undisturbed_life_goes_from_requested_to_stopped() -> None:
    state = State.REQUESTED
    for event, expected in LIFE:
        state = apply(state, event)
        assert state is expected


def test_a_missing_image_is_fetched_and_creating_is_tried_again() -> None:
    assert apply(State.CREATING, Event.IMAGE_ABSENT) is State.PULLING
    assert apply(State.PULLING, Event.IMAGE_FETCHED) is State.CREATING


@given(st.lists(st.sampled_from(Event)))
def test_whatever_happens_an_end_is_final_and_only_the_tables_lines_are_taken(
    events: list[Event],
) -> None:
    state = State.REQUESTED
    for event in events:
        if (state, event) in TRANSITIONS:
            following = apply(state, event)
            assert state not in ENDS
            assert following is not state
            state = following
        else:
            with pytest.raises(IllegalTransition):
                apply(state, event)


def test_an_idle_instance_is_paused_and_resumed_as_often_as_it_takes() -> None:
    state = State.READY
    for event, expected in [
        (Event.PAUSE, State.PAUSING),
        (Event.FROZEN, State.PAUSED),
        (Event.RESUME, State.RESUMING),
        (Event.ACCEPTS, State.READY),
    ] * 2:
        state = apply(state, event)
        assert state is expected


def test_one_that_is_asked_for_while_it_is_pausing_is_ready_again() -> None:
    assert apply(apply(State.READY, Event.PAUSE), Event.WANTED) is State.READY


@given(st.lists(st.sampled_from(Event)))
def test_after_it_drains_or_ends_an_instance_is_offered_never_again(events: list[Event]) -> None:
    state, over = State.REQUESTED, False
    for event in events:
        if (state, event) in TRANSITIONS:
            state = apply(state, event)
            over |= state in ENDS | {State.DRAINING}
            assert not (over and published(state) is InstanceState.READY)


@given(st.lists(st.sampled_from(Event)))
def test_a_frozen_instance_is_offered_only_after_it_was_resumed(events: list[Event]) -> None:
    state, frozen = State.REQUESTED, False
    for event in events:
        if (state, event) not in TRANSITIONS:
            continue
        state = apply(state, event)
        frozen |= event in {Event.FROZEN, Event.ADOPTED_PAUSED}
        frozen &= state is not State.RESUMING
        assert not (frozen and published(state) is InstanceState.READY)


@pytest.mark.parametrize("state", [s for s in State if s not in ENDS])
def test_every_state_that_is_no_end_can_fail(state: State) -> None:
    assert apply(state, Event.FAIL) is State.FAILED
