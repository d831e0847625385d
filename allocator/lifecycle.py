"""The states of an instance and what moves it from one to the next.

    requested → creating → starting → ready → draining → stopped
                  ↕                       ╲______↘
               pulling      failed  ←  from every state that is not an end

An image is looked for by creating from it: where it is present, which is the rule, that saves a
call to the engine; where it is not, the instance goes to `pulling` and back.
"""

from enum import StrEnum
from typing import Final

from overlay.records import InstanceState


class State(StrEnum):
    """Where an instance is in its life."""

    REQUESTED = "requested"
    PULLING = "pulling"
    CREATING = "creating"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(StrEnum):
    """What happened to an instance."""

    ADMITTED = "admitted"
    IMAGE_ABSENT = "image_absent"
    IMAGE_FETCHED = "image_fetched"
    CREATED = "created"
    ADOPTED = "adopted"
    ACCEPTS = "accepts"
    DRAIN = "drain"
    REMOVED = "removed"
    FAIL = "fail"


class IllegalTransition(Exception):
    """The event cannot happen in this state: a bug of the caller, not an error to handle."""

    def __init__(self, state: State, event: Event) -> None:
        self.state = state
        self.event = event
        super().__init__(f"an instance that is {state} cannot see {event}")


ENDS: Final = frozenset({State.STOPPED, State.FAILED})

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.REQUESTED, Event.ADMITTED): State.CREATING,
    (State.REQUESTED, Event.ADOPTED): State.STARTING,
    (State.CREATING, Event.IMAGE_ABSENT): State.PULLING,
    (State.PULLING, Event.IMAGE_FETCHED): State.CREATING,
    (State.CREATING, Event.CREATED): State.STARTING,
    (State.STARTING, Event.ACCEPTS): State.READY,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.REMOVED): State.STOPPED,
} | {(state, Event.FAIL): State.FAILED for state in State if state not in ENDS}


def apply(state: State, event: Event) -> State:
    """Return the state that follows `state` when `event` happens.

    Raises:
        IllegalTransition: the table has no such line.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None


_PUBLISHED: Final = {
    State.READY: InstanceState.READY,
    State.DRAINING: InstanceState.DRAINING,
}


def published(state: State) -> InstanceState | None:
    """Return the state as other peers are told of it; None is not there any more."""
    return None if state in ENDS else _PUBLISHED.get(state, InstanceState.STARTING)
