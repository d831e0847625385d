"""How often an array is copied on its way to a worker and back, beyond what kernels do.

Python's tracemalloc counts what memory each end has at the most meanwhile. The array where it came
from, and where it stays, is no copy.
"""

import tracemalloc
from typing import Any

import numpy as np

from bench.map.engines import Myxo

Array = Any


def start_tracing(_: object = None) -> None:
    """Count memory from now on, from nothing."""
    tracemalloc.start()


def most_traced(_: object = None) -> int:
    """Return how many bytes there were at the most since, and count no more."""
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def first_number(array: Array) -> float:
    """Return an array's first number."""
    return float(array[0])


def ones(bytes_: int) -> Array:
    """Return an array of so many bytes."""
    return np.ones(bytes_ // 8)


def copies_of_an_array(bytes_: int) -> dict[str, float]:
    """Return the copies of one array on its way `there` and `back`, each ÷ its size."""
    map_ = Myxo(1).each  # one after the other, on the same worker
    array = ones(bytes_)
    map_(first_number, [ones(8)])  # imports what it needs
    map_(start_tracing, [None])
    start_tracing()
    map_(first_number, [array])
    sender, (receiver,) = most_traced(), map_(most_traced, [None])
    there = sender + receiver - array.nbytes
    map_(start_tracing, [None])
    start_tracing()
    (back,) = map_(ones, [bytes_])
    receiver, (sender,) = most_traced(), map_(most_traced, [None])
    return {"there": there / bytes_, "back": (sender + receiver - 2 * back.nbytes) / bytes_}
