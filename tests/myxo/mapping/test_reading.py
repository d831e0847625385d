"""Items of a source as they were when they were read."""

import threading
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myxo.mapping.reading import Snapshots, read


def all_of(source: Iterator[Any], most: int = 1000) -> list[Any]:
    """Read to the end, all that is wanted at once."""
    snapshots, found, ended = Snapshots(), [], False
    while not ended:
        items, ended = read(source, most, snapshots)
        found += items
    return found


@given(st.integers(1, 3), st.integers(0, 40))
def test_a_source_that_fills_the_same_objects_anew_gives_what_a_loop_sees(
    buffers: int, items: int
) -> None:
    def rows() -> Iterator[list[int]]:
        made = [[-1] for _ in range(buffers)]
        for number in range(items):
            row = made[number % buffers]
            row[0] = number
            yield row

    assert all_of(rows()) == [[number] for number in range(items)]


def test_an_array_that_is_used_again_is_copied_and_a_new_one_is_not() -> None:
    again, new = np.zeros(3), [np.full(3, float(n)) for n in range(8)]

    def filled() -> Iterator[Any]:
        for number in range(8):
            again[:] = number
            yield again

    assert [array[0] for array in all_of(filled())] == list(range(8))
    read_ones = all_of(iter(new))
    assert [array[0] for array in read_ones] == list(range(8))
    assert all(one is original for one, original in zip(read_ones[3:], new[3:], strict=True))


def test_a_source_that_changes_its_ways_is_found_out() -> None:
    def rows() -> Iterator[list[int]]:
        yield from ([number] for number in range(5))
        row = [0]
        for number in range(5, 9):
            row[0] = number
            yield row

    assert [row[0] for row in all_of(rows())][6:] == [6, 7, 8]


def test_what_cannot_be_copied_is_given_as_it_is() -> None:
    lock = threading.Lock()
    assert all_of(repeat(lock, 5)) == [lock] * 5


def test_an_item_that_took_long_does_not_wait_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow_at_three() -> Iterator[int]:
        nonlocal now
        for number in range(6):
            now += 1.0 if number == 3 else 0.0
            yield number

    source, snapshots = slow_at_three(), Snapshots()
    assert read(source, 100, snapshots) == ([0, 1, 2, 3], False)
    assert read(source, 2, snapshots) == ([4, 5], False)
    assert read(source, 100, snapshots) == ([], True)
