"""The states of an instance and what moves it from one to the next.

    requested → creating → starting → ready → draining → stopped
                  ↕                   ↑ ↓ ↖      ↑
               pulling         resuming pausing  │
                                      ↖ ↓        │
                                      paused ────┘       failed ← every state that is no end

An image is looked for by creating from it: where it is present, which is the rule, that saves a
call to the engine; where it is not, the instance goes to `pulling` and back.

A paused instance keeps its memory and its port and does nothing: it accepts a connection and never
answers. So an instance is `pausing`, and offered to nobody, until everybody who might dial it has
said that nothing is in flight there; whoever asks for it meanwhile has it back as it was. From
`paused` the only way to a request leads through `resuming`.
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
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
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
    ADOPTED_PAUSED = "adopted_paused"
    ACCEPTS = "accepts"
    PAUSE = "pause"
    WANTED = "wanted"
    FROZEN = "frozen"
    RESUME = "resume"
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
"""What cannot be left."""

BEGINNING: Final = frozenset({State.REQUESTED, State.PULLING, State.CREATING, State.STARTING})
"""It was never ready yet."""

COMING: Final = BEGINNING | {State.RESUMING}
"""It is on its way to being ready."""

RESTING: Final = frozenset({State.PAUSING, State.PAUSED})
"""It was put to rest, and may be woken."""

ASLEEP: Final = RESTING | {State.RESUMING}
"""It takes no request this moment, and will if it is asked to."""

DRAINABLE: Final = RESTING | {State.READY}
"""It may be drained."""

USABLE: Final = DRAINABLE | {State.RESUMING}
"""It was ready once and can be again: it counts as one of its service's instances."""

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.REQUESTED, Event.ADMITTED): State.CREATING,
    (State.REQUESTED, Event.ADOPTED): State.STARTING,
    (State.REQUESTED, Event.ADOPTED_PAUSED): State.PAUSED,
    (State.CREATING, Event.IMAGE_ABSENT): State.PULLING,
    (State.PULLING, Event.IMAGE_FETCHED): State.CREATING,
    (State.CREATING, Event.CREATED): State.STARTING,
    (State.STARTING, Event.ACCEPTS): State.READY,
    (State.READY, Event.PAUSE): State.PAUSING,
    (State.PAUSING, Event.WANTED): State.READY,
    (State.PAUSING, Event.FROZEN): State.PAUSED,
    (State.PAUSED, Event.RESUME): State.RESUMING,
    (State.RESUMING, Event.ACCEPTS): State.READY,
    (State.RESUMING, Event.FROZEN): State.PAUSED,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.PAUSING, Event.DRAIN): State.DRAINING,
    (State.PAUSED, Event.DRAIN): State.DRAINING,
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
    State.PAUSING: InstanceState.PAUSED,
    State.PAUSED: InstanceState.PAUSED,
    State.RESUMING: InstanceState.PAUSED,
    State.DRAINING: InstanceState.DRAINING,
}


def published(state: State) -> InstanceState | None:
    """Return the state as other peers are told of it; None is not there any more."""
    return None if state in ENDS else _PUBLISHED.get(state, InstanceState.STARTING)
