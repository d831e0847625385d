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
