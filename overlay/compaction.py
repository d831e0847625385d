"""The owner's part in keeping withdrawn records from filling every table.

Each instance that goes leaves a withdrawn record everywhere, and months of them would fill the room
that an owner has. After every `WITHDRAWN_PER_ROUND` of them the owner begins a round: it signs the
records of its live instances anew, and states in its peer record a floor below which everything is
void (`record_table.py`).

The floor is where the round *before* began. Whatever is live has been signed anew since then, and
has had a whole round to get everywhere; so nobody drops a live instance for having the floor sooner
than the newer record. At most two rounds of withdrawn records are held anywhere.
"""

from dataclasses import dataclass

WITHDRAWN_PER_ROUND = 128
"""More signs live records anew less often, less holds fewer withdrawn ones: two rounds are a
quarter of what an owner may have."""


@dataclass(slots=True)
class Compaction:
    """Counts what an owner withdraws in one life; the next life's epoch makes all of it void."""

    _withdrawn: int = 0
    _round_began: int = 0

    def withdrew(self, next_counter: int) -> int | None:
        """Take in that a record was withdrawn; return a floor if it is time to state it.

        The owner then signs its live records anew, with counters from `next_counter` on, and after
        that its peer record with the floor.
        """
        self._withdrawn += 1
        if self._withdrawn < WITHDRAWN_PER_ROUND:
            return None
        self._withdrawn = 0
        floor, self._round_began = self._round_began, next_counter
        return floor
