"""What becomes of an experiment: a table of states, read by whoever changes one.

    QUEUED ──start──► RUNNING ──finish──► FINISHED
      │  │              │  └────fail────► FAILED
      │  └─────fail─────┼───────────────► FAILED       it cannot be run as it is written
      └───────cancel────┴──────────────► CANCELLED

What has ended stays as it is. Several processes share one database, so a change is made there by a
condition on the state before (`sources`), and who comes second finds that nothing was changed.
"""

from enum import StrEnum


class Status(StrEnum):
    """Where an experiment is in its life."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Change(StrEnum):
    """What happens to an experiment."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


class IllegalChange(Exception):
    """This cannot happen to an experiment in that state: whoever did it has a bug."""


TRANSITIONS = {
    (Status.QUEUED, Change.START): Status.RUNNING,
    (Status.QUEUED, Change.FAIL): Status.FAILED,
    (Status.QUEUED, Change.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Change.FINISH): Status.FINISHED,
    (Status.RUNNING, Change.FAIL): Status.FAILED,
    (Status.RUNNING, Change.CANCEL): Status.CANCELLED,
}

ENDED = frozenset({Status.FINISHED, Status.FAILED, Status.CANCELLED})


def after(status: Status, change: Change) -> Status:
    """Return the state that follows.

    Raises:
        IllegalChange: none does.
    """
    try:
        return TRANSITIONS[status, change]
    except KeyError:
        raise IllegalChange(f"an experiment that is {status} cannot {change}") from None


def sources(change: Change) -> tuple[Status, ...]:
    """Return the states in which this can happen."""
    return tuple(status for status, possible in TRANSITIONS if possible is change)


def target(change: Change) -> Status:
    """Return the state that this leads to, which is one whatever was before."""
    (status,) = {TRANSITIONS[source, change] for source in sources(change)}
    return status
