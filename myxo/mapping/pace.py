"""How long a lane takes for an item, and how many items are worth one message.

A message to a worker costs a round trip and some work of its own, whatever is in it. Chunks are as
large as makes that cost small beside the computing, and no larger: what is in a chunk cannot be
given to a faster worker without a further message, and its results come late. Near the end of the
input each lane takes a part of what is left, so that all end together (guided self-scheduling,
Polychronopoulos and Kuck 1987; the factor of two is that of factoring, Hummel and others 1992). A
last round, in which a chunk costs more than it computes, is not cut further.

Before any item's time is known, a lane gets the part that it would have if all lanes that there may
be were there, in two chunks: the second one arrives while the first is computed, and is computed
while the results of that are on their way. That is right where items cost little, and saves the
round trips in which small chunks would find it out. Where they cost much, the first word of the
worker says so, and what takes too long is taken back from it: nothing was computed in vain.
"""

from dataclasses import dataclass
from math import ceil

WEIGHT = 0.3
"""Of a new measure in the smoothed ones: the last few count, one that is far off does not rule."""

WORTH = 20
"""A chunk computes for this many times its cost, so that some 5 % are lost."""

SHORTEST_S, LONGEST_S = 0.01, 0.5
"""What a chunk should take: below, the clocks say little; above, results come late."""

FIRST = 1
GROWTH = 32
"""A chunk over the one before it on its lane, or over what was weighed, at the most: the first
items may be cheap or small ones."""

LARGEST_BYTES = 4 << 20
"""Of one chunk's items; a single item may be larger."""


@dataclass(slots=True)
class Pace:
    """What was measured of one lane, or of all of them.

    Attributes:
        item_s: computing time of an item, in seconds; None before the first.
        cost_s: what an idle lane takes for a chunk beside the computing, in seconds.
        item_bytes: mean size of an item on its way to the worker.
        timed: items whose time that is; those long ago count less.
        weighed: items whose size was measured together, at the most.
    """

    item_s: float | None = None
    cost_s: float | None = None
    item_bytes: float = 0.0
    timed: float = 0.0
    weighed: int = 0

    def computed(self, items: int, busy_s: float) -> None:
        """Take in that `items` took `busy_s` seconds of computing."""
        # Many items say more than a few before them, of which the first may have imported things.
        weight = max(WEIGHT, items / (items + self.timed))
        self.timed = (1 - WEIGHT) * self.timed + items
        self.item_s = _smoothed(self.item_s, busy_s / items, weight)

    def cost(self, seconds: float) -> None:
        """Take in what a chunk took beside its computing."""
        self.cost_s = _smoothed(self.cost_s, max(0.0, seconds), WEIGHT)

    def sent(self, items: int, size: int) -> None:
        """Take in how many bytes `items` were."""
        self.item_bytes = _smoothed(self.item_bytes or None, size / items, WEIGHT)
        self.weighed = max(self.weighed, items)


def _smoothed(before: float | None, sample: float, weight: float) -> float:
    return sample if before is None else before + weight * (sample - before)


def first_size(pace: Pace, left: int | None, most_lanes: int) -> int:
    """Return how many items a lane's chunk has before any item's time is known.

    Args:
        pace: of all lanes.
        left: items without outcome, or None where the input's end is not known: then more of it
            would be read than is needed.
        most_lanes: how many may come to share them.
    """
    if left is None:
        return FIRST
    most = min(GROWTH * pace.weighed, _fitting(pace), left // (2 * most_lanes))
    return max(FIRST, most)


def _fitting(pace: Pace) -> int:
    """Return how many items fit into a message."""
    return int(LARGEST_BYTES / max(pace.item_bytes, 1.0))


def chunk_size(pace: Pace, last: int, left: int | None, lanes: int, *, shared: bool = False) -> int:
    """Return how many items the next chunk of a lane has.

    Args:
        pace: of that lane, or of all where it has computed nothing yet.
        last: items of the lane's last chunk, 0 if this is its first.
        left: items without outcome, those that lanes have among them, so that the ones who ask one
            after the other get alike; None where the input's end is not known.
        lanes: how many share them.
        shared: whether other maps' items are computed between the lane's: then it should never have
            nothing to compute when its turn comes.
    """
    item_s, cost_s = max(pace.item_s or 0.0, 1e-9), pace.cost_s or 0.0
    target_s = LONGEST_S if shared else min(max(WORTH * cost_s, SHORTEST_S), LONGEST_S)
    size = min(int(target_s / item_s), GROWTH * max(last, FIRST), _fitting(pace))
    if left is not None:
        share = left / lanes
        last_round = share * item_s <= cost_s
        size = min(size, ceil(share if last_round else share / 2))
    return max(1, size)


def kept_of(pace: Pace, size: int) -> int:
    """Return how many of the items that a lane still has of a chunk it is to keep.

    Args:
        pace: of the lane.
        size: how many it has.
    """
    item_s = max(pace.item_s or 0.0, 1e-9)
    if size * item_s <= 2 * LONGEST_S:  # some more is no reason to send them twice
        return size
    return max(1, int(LONGEST_S / item_s))
