"""What went wrong with an item, as a worker can say it to the caller."""

import pickle
import traceback
from dataclasses import dataclass

from myxo.mapping.packing import pickle_of

MAX_TEXT = 64 << 10
"""Characters of a traceback or a message that travel."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception, as text and, where it can be pickled, as itself.

    Attributes:
        kind: the exception's type, with its module.
        message: its text.
        trace: the traceback where it was raised, as Python prints it.
        pickled: the exception, or None.
    """

    kind: str
    message: str
    trace: str = ""
    pickled: bytes | None = None


def fault_of(error: BaseException, *, leave_out: int = 0) -> Fault:
    """Return a fault.

    Args:
        error: what was raised.
        leave_out: frames of the worker's own at the traceback's beginning.
    """
    trace = error.__traceback__
    for _ in range(leave_out):
        trace = trace.tb_next if trace is not None else None
    text = "".join(traceback.format_exception(type(error), error, trace))
    return Fault(_name(type(error)), _clipped(_text(error)), _clipped(text), _pickled(error))


def _pickled(error: BaseException) -> bytes | None:
    """Return an exception's pickle if it is read back as what it was."""
    try:
        data = pickle_of(error.with_traceback(None))
        same = type(pickle.loads(data)) is type(error)  # noqa: S301  (its own)
    except Exception:  # noqa: BLE001  (whatever a class of the user's does there)
        return None
    return data if same and len(data) <= MAX_TEXT else None


def _name(kind: type[BaseException]) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (whatever a class of the user's does there)
        return "(its text could not be made)"


def _clipped(text: str) -> str:
    return (
        text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]}\n…\n{text[-MAX_TEXT // 2 :]}"
    )
