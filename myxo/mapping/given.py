"""What a lane has been given, and how long it will take for that."""

from collections import deque
from dataclasses import dataclass, field
from typing import NewType

from myxo.mapping.pace import LONGEST_S, Pace

LaneId = NewType("LaneId", int)

AHEAD = 2
"""Chunks that a lane has at the most: the one that is computed, and one on its way."""

AHEAD_SHARED = 6
"""The same where the worker computes for other maps too, and chunks are small."""

SILENT_S = 0.02
"""A worker says what it has computed as often as that, or at a chunk's end."""

SOONEST_S = 0.001
"""Until a lane asks anew by the clock: what is estimated may always be a little late."""

SLOW = 2.0
"""An item is a straggler when it has taken this many times what another worker would need."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Items that a lane was given.

    Attributes:
        start, stop: the indices, half open; a chunk ends earlier when its tail is taken.
        done: the first index that the lane has not answered.
        sent_at, moved_at: when it was given out, and when `done` last moved or its turn came.
        items: how many were sent.
        began_idle: whether the lane had nothing else to do then.
        is_risked: whether it is an item that was alone once when its worker was lost: the worker
            says when it begins it.
        has_begun: whether it has said so.
        busy_s, away_s: that the worker computed of it, and others' items meanwhile, in seconds.
    """

    id: int
    lane: LaneId
    start: int
    stop: int
    done: int
    sent_at: float
    moved_at: float
    items: int
    began_idle: bool
    is_risked: bool = False
    has_begun: bool = False
    busy_s: float = 0.0
    away_s: float = 0.0

    def __len__(self) -> int:
        return self.stop - self.done


@dataclass(slots=True)
class Given:
    """A lane that stands.

    Attributes:
        of_all: what was measured of all lanes.
        pace: what was measured of this one.
        chunks: the first is computed now.
        last_size: items of its newest chunk.
        away_since: when its worker turned to other maps; None while it is at this one.
        shared: its worker computed for others, too, when the last chunk was done or since.
        leaves: its worker is to end and takes nothing new.
    """

    of_all: Pace
    pace: Pace = field(default_factory=Pace)
    chunks: deque[Chunk] = field(default_factory=deque)
    last_size: int = 0
    away_since: float | None = None
    shared: bool = False
    leaves: bool = False

    @property
    def item_s(self) -> float:
        """What an item takes it, in seconds; 0 before any has been computed."""
        return self.pace.item_s if self.pace.item_s is not None else self.of_all.item_s or 0.0

    @property
    def cost_s(self) -> float:
        """What a chunk takes it beside the computing, in seconds."""
        return self.pace.cost_s if self.pace.cost_s is not None else self.of_all.cost_s or 0.0

    @property
    def patience_s(self) -> float:
        """How long another lane's item may take before this one computes it, too."""
        return SLOW * (self.item_s + self.cost_s)

    def away(self, now: float) -> None:
        """Note that its worker computes for other maps."""
        self.away_since, self.shared = now, True

    def back(self, now: float) -> None:
        """Note that it computes for this one again."""
        if self.away_since is None:
            return
        for chunk in self.chunks:
            chunk.away_s += now - max(self.away_since, chunk.sent_at)
            chunk.moved_at = now
        self.away_since = None

    def drop(self, chunk: Chunk, now: float) -> None:
        """Take a chunk out; it is the turn of the one behind it."""
        first = self.chunks[0] is chunk
        self.chunks.remove(chunk)
        if first and self.chunks:
            self.chunks[0].moved_at = now
        self.shared = self.away_since is not None or chunk.away_s > 0

    def left_s(self, now: float) -> float:
        """Return how long it will take for what it has, as it looks now, in seconds.

        An item that has taken longer than items do will take as long again.
        """
        under_way_s = now - self.chunks[0].moved_at
        is_late = under_way_s > self.item_s + (self.pace.cost_s or 0.0) + SILENT_S
        current_s = under_way_s if is_late else max(0.0, self.item_s - under_way_s)
        items = sum(len(chunk) for chunk in self.chunks) - 1
        each_s = max(self.item_s, under_way_s) if self.of_all.item_s is None else self.item_s
        return current_s + items * each_s

    def is_nearly_done(self, now: float) -> bool:
        """Whether it would stand idle if its next chunk went out only when this one is done."""
        chunks, ahead_s = self._ahead
        return len(self.chunks) < chunks and self.left_s(now) <= ahead_s

    def nearly_done_at(self, now: float) -> float | None:
        """Return when that will be so, as it looks now; None if it is not known, or never."""
        chunks, ahead_s = self._ahead
        if self.pace.item_s is None or len(self.chunks) >= chunks:
            return None
        return now + max(self.left_s(now) - ahead_s, SOONEST_S)

    @property
    def _ahead(self) -> tuple[int, float]:
        """Chunks that it has at the most, and at how little left it gets the next one, in seconds.

        One whose worker computes for others, too, should never have nothing when its turn comes.
        """
        if self.shared:
            return AHEAD_SHARED, LONGEST_S / 2
        return AHEAD, self.pace.cost_s or 0.0
