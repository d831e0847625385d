"""What a caller says of one map beside the function and the items."""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

ChunkSize = int | Literal["auto", "sqrt"]


@dataclass(frozen=True, slots=True)
class MapSettings:
    """How a map is to be done.

    Attributes:
        chunk: items of a message to a worker: a number, `auto` by measured time, or `sqrt` of the
            number of items.
        timeout_s: seconds that one item may take before it fails with `TimeoutError`, if bounded.
        retries: how often an item whose function raised is computed again.
        max_in_flight: workers that are used at once, at the most.
        untaken: outcomes that wait for a caller who iterates, at the most.
        patience_s: seconds without any worker after which the map fails.
        return_exceptions: whether an item's exception is its result.
        as_completed: whether results come in the order in which they are there.
        progress: whether a bar is shown; None: where there is a terminal.
        label: what the bar is of.
    """

    chunk: ChunkSize = "auto"
    timeout_s: float | None = None
    retries: int = 0
    max_in_flight: int = 256
    untaken: int | None = None
    patience_s: float = 60.0
    return_exceptions: bool = False
    as_completed: bool = False
    progress: bool | None = None
    label: str = "map"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: naming the setting and what it may be.
        """
        if self.chunk not in ("auto", "sqrt") and not (_is_count(self.chunk)):
            raise ValueError(f'chunk is {self.chunk!r}; it is a number from 1, "auto" or "sqrt"')
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"timeout is {self.timeout_s!r}; it is a number of seconds over 0")
        if not isinstance(self.retries, int) or self.retries < 0:
            raise ValueError(f"retries is {self.retries!r}; it is a number from 0")
        if not _is_count(self.max_in_flight):
            raise ValueError(f"max_in_flight is {self.max_in_flight!r}; it is a number from 1")

    def chunk_of(self, items: int) -> int | None:
        """Return how many items a message has, or None to go by measured time.

        Args:
            items: of the input.
        """
        if self.chunk == "auto":
            return None
        return max(1, isqrt(items)) if self.chunk == "sqrt" else int(self.chunk)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
