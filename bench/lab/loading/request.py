"""One request of a load, from when it is due to when it is over."""

from dataclasses import dataclass

from bench.lab.loading.messages import Message
from bench.lab.loading.row import Row


@dataclass(slots=True, eq=False)
class Request:
    """A request.

    Attributes:
        number: of its load, from 1 on.
        due: when it is to go out, by `time.monotonic`.
        row: what it is one of.
        sent: when its first byte went out; 0 until then.
    """

    number: int
    due: float
    message: Message
    row: Row
    sent: float = 0.0
