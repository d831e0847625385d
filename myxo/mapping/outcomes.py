"""What came of items, on its way to the caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from myxo.mapping.faults import Fault


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Results of consecutive items.

    Attributes:
        indices: of the input.
        values: one each, None where there is a fault.
        faults: by index; an exception where it is in this process already.
        worker: that computed them.
    """

    indices: range
    values: list[Any]
    faults: Mapping[int, Fault | Exception]
    worker: str


class InOrder:
    """Puts outcomes into the order of the items."""

    def __init__(self) -> None:
        self._held: dict[int, Outcomes] = {}
        self._next = 0

    def take(self, outcomes: Outcomes) -> list[Outcomes]:
        """Return those whose turn it is now; what comes too early is held."""
        self._held[outcomes.indices.start] = outcomes
        ready = []
        while (its_turn := self._held.pop(self._next, None)) is not None:
            self._next = its_turn.indices.stop
            ready.append(its_turn)
        return ready
