import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.lifecycle import ENDS, TRANSITIONS, Event, IllegalTransition, State, apply, published
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


@given(st.lists(st.sampled_from(Event)))
def test_an_instance_is_offered_only_while_it_is_ready_and_never_again_after(
    events: list[Event],
) -> None:
    seen = [published(state := State.REQUESTED)]
    for event in events:
        if (state, event) in TRANSITIONS:
            state = apply(state, event)
            seen.append(published(state))
    runs = [s for i, s in enumerate(seen) if i == 0 or seen[i - 1] is not s]
    assert runs.count(InstanceState.READY) <= 1


@pytest.mark.parametrize("state", [s for s in State if s not in ENDS])
def test_every_state_that_is_no_end_can_fail(state: State) -> None:
    assert apply(state, Event.FAIL) is State.FAILED
