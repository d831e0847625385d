"""What is mapped. Workers of every engine import it from here."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SLOWER = 10.0
"""How many times as long the slow one of several workers takes."""


def noop(item: int) -> int:
    """Return the item."""
    return item


def factorial(number: int) -> int:
    """Return the factorial by PUMA's iterative loop."""
    product = 1
    for factor in range(2, number + 1):
        product *= factor
    return product


def mean(array: Any) -> float:
    """Return the mean of a numpy array."""
    return float(array.mean())


def paced(item: tuple[int, str, float, bool]) -> int:
    """Return the item's number after a pause.

    Args:
        item: number, folder in which workers leave their process ids, seconds of the pause, and
            whether the worker that computes one first is slow.
    """
    number, folder, pause_s, one_slow = item
    slow = _note_worker(folder)
    time.sleep(pause_s * (SLOWER if slow and one_slow else 1.0))
    return number


@cache
def _note_worker(folder: str) -> bool:
    """Leave this process's id, and its parent's; return whether it is the first that does."""
    Path(folder, f"worker-{os.getpid()}").write_text(f"{os.getpid()} {os.getppid()}")
    try:
        Path(folder, "first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Sealed:
    """A list that Dask takes as one object; one that it sees it packs item by item, 0.1 ms each."""

    items: Sequence[Any]


def each_of(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return the results of a chunk of items."""
    return [function(item) for item in items]


def each_sealed(function: Callable[[Any], Any], chunk: Sealed) -> Sealed:
    """Return the results of a chunk of items."""
    return Sealed(each_of(function, chunk.items))
