"""How a sequence's parts travel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myxo.mapping.items import SequenceItems
from myxo.mapping.packing import pack

CHUNK = range(10, 20)


@pytest.mark.parametrize(
    "sequence",
    [
        list(range(5, 35)),
        tuple(range(5, 35)),
        range(5, 65, 2),
        np.arange(60.0).reshape(30, 2),
        np.arange(60)[::2],
    ],
    ids=lambda sequence: type(sequence).__name__,
)
def test_a_part_of_what_travels_well_is_of_the_same_kind(sequence: Sequence[Any]) -> None:
    part = SequenceItems(sequence).take(CHUNK)
    assert type(part) is type(sequence)
    assert [np.asarray(item).tolist() for item in part] == [
        np.asarray(sequence[index]).tolist() for index in CHUNK
    ]


@pytest.mark.parametrize(
    "sequence", ["a text of thirty characters...", pd.Series(range(30)), np.ma.arange(30)]
)
def test_a_part_of_anything_else_is_its_items(sequence: Any) -> None:
    part = SequenceItems(sequence).take(CHUNK)
    assert type(part) is list
    assert str(part) == str(list(sequence[10:20]))


def test_a_range_and_an_arrays_numbers_travel_as_one() -> None:
    everything = range(100_000)
    assert sum(map(len, pack(SequenceItems(range(100_000)).take(everything)))) < 100
    numbers: Any = np.arange(100_000.0)
    pickled, buffer = pack(SequenceItems(numbers).take(everything))
    assert len(pickled) < 500
    assert memoryview(buffer).nbytes == numbers.nbytes
