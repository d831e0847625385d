"""How long a lane takes for an item, and how many items are worth one message.

A message to a worker costs a round trip and some work of its own, whatever is in it. Chunks are as
large as makes that cost small beside the computing, and no larger: what is in a chunk cannot be
given to a faster worker without a further message, and its results come late. Near the end of the
input each lane takes a part of what is left, so that all end together (guided self-scheduling,
Polychronopoulos and Kuck 1987; the factor of two is that of factoring, Hummel and others 1992). A
last round, in which a chunk costs more than it computes, is not cut further.
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
"""A chunk over the one before it on its lane, at the most: the first items may be cheap ones."""

LARGEST_BYTES = 4 << 20
"""Of one chunk's items; a single item may be larger."""


@dataclass(slots=True)
class Pace:
    """What was measured of one lane, or of all of them.

    Attributes:
        item_s: computing time of an item, in seconds; None before the first.
        cost_s: what an idle lane takes for a chunk beside the computing, in seconds.
        item_bytes: mean size of an item on its way to the worker.
    """

    item_s: float | None = None
    cost_s: float | None = None
    item_bytes: float = 0.0

    def computed(self, items: int, busy_s: float) -> None:
        """Take in that `items` took `busy_s` seconds of computing."""
        self.item_s = _smoothed(self.item_s, busy_s / items)

    def cost(self, seconds: float) -> None:
        """Take in what a chunk took beside its computing."""
        self.cost_s = _smoothed(self.cost_s, max(0.0, seconds))

    def sent(self, items: int, size: int) -> None:
        """Take in how many bytes `items` were."""
        self.item_bytes = _smoothed(self.item_bytes or None, size / items)


def _smoothed(before: float | None, sample: float) -> float:
    return sample if before is None else before + WEIGHT * (sample - before)


def chunk_size(pace: Pace, last: int, left: int | None, lanes: int, *, shared: bool = False) -> int:
    """Return how many items the next chunk of a lane has.

    Args:
        pace: of that lane, or of all where it has computed nothing yet.
        last: items of the lane's last chunk, 0 if this is its first.
        left: items that no lane has yet, or None where the input's end is not known.
        lanes: how many share them.
        shared: whether other maps' items are computed between the lane's: then it should never have
            nothing to compute when its turn comes.
    """
    if pace.item_s is None:
        return FIRST
    target_s = min(max(WORTH * (pace.cost_s or 0.0), SHORTEST_S), LONGEST_S)
    if shared:
        target_s = LONGEST_S
    size = int(min(target_s / max(pace.item_s, 1e-9), GROWTH * max(last, FIRST)))
    if pace.item_bytes:
        size = min(size, int(LARGEST_BYTES / pace.item_bytes))
    if left is not None:
        share = left / lanes
        last_round = share * pace.item_s <= (pace.cost_s or 0.0)
        size = min(size, ceil(share if last_round else share / 2))
    return max(1, size)
