"""A map's input as chunks: a sequence as it lies, or a window of what was read from an iterable."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Items(Protocol):
    """Items by index.

    Attributes:
        count: how many the input has; None where it is read as the map goes.
    """

    count: int | None

    def take(self, indices: range) -> Sequence[Any]:
        """Return the items of a chunk; they may be asked for again until they are done."""

    def done(self, indices: range) -> None:
        """Let go of items whose outcomes are there."""


def _travels(part: object) -> bool:
    """Whether a part of a sequence is as good as its items in a list, and no larger.

    Of an array one is a single buffer. What others are, and how they are pickled, is not known.
    """
    numpy = sys.modules.get("numpy")
    return type(part) in {list, tuple, range} or (numpy is not None and type(part) is numpy.ndarray)


class SequenceItems:
    """A sequence that the caller holds anyway."""

    def __init__(self, sequence: Sequence[Any]) -> None:
        self.count: int | None = len(sequence)
        self._sequence = sequence

    def take(self, indices: range) -> Sequence[Any]:
        """Return the items of a chunk, as a part of the sequence where that travels well."""
        part = self._sequence[indices.start : indices.stop]
        return part if _travels(part) else list(part)

    def done(self, indices: range) -> None:
        """Nothing is held for the map."""


class WindowItems:
    """What was read and is not done."""

    count: int | None = None

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}
        self._read = 0

    def add(self, items: Iterable[Any]) -> int:
        """Take in what was read; return how many it was."""
        before = self._read
        for item in items:
            self._held[self._read] = item
            self._read += 1
        return self._read - before

    def take(self, indices: range) -> list[Any]:
        """Return the items of a chunk."""
        return [self._held[index] for index in indices]

    def done(self, indices: range) -> None:
        """Let go of items whose outcomes are there."""
        for index in indices:
            del self._held[index]
