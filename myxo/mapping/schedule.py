"""Which items a lane computes next: late, in measured chunks, and never lost.

A lane is one connection to one worker. Items are numbered as they come from the input. Each lane
gets a chunk when it asks for one, so that a fast lane gets more; a second one goes out before the
first is done where the way to the worker would leave it idle. Workers report results in order while
they compute, so that the schedule knows of each chunk what is left of it.

When the input is used up, a lane without work takes the tail of what another one would take longest
for: the victim is told to stop earlier. Where nothing is left to take but the item that a worker is
at, and that takes far longer than items do, a second worker computes it too, and whoever is first
counts (backup tasks, Dean and Ghemawat 2004). Each index has exactly one outcome.

A lane that is lost gives its items back in pieces, so that an item that kills its worker is soon
alone in its chunk; one that was alone and lost its worker too often is abandoned with that error.
Where the worker was to end, or was at another map's items, what it had of this one is not to blame;
nor is an item under suspicion that the worker had not begun.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import count

from myxo.mapping.backlog import Backlog
from myxo.mapping.given import Chunk, Given, LaneId
from myxo.mapping.intervals import Intervals
from myxo.mapping.pace import GROWTH, Pace, chunk_size, first_size, kept_of

MOST_LANES = 256

PIECES = 8
"""Of what a lost lane gives back."""

COPIES = 2
"""Of one item that are computed at once."""

LOSSES = 3
"""How often an item that was alone may lose its worker before it is abandoned."""

READ_AHEAD = 100_000
"""Items that wait for a lane at the most."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """The lane need not compute a chunk from `stop` on."""

    lane: LaneId
    chunk: int
    stop: int


class Schedule:
    """The state of one map.

    Args:
        chunk: items of a chunk, or None to go by measured time.
        most_lanes: that there may be at once.
    """

    def __init__(self, *, chunk: int | None = None, most_lanes: int = MOST_LANES) -> None:
        self._fixed = chunk
        self._most_lanes = most_lanes
        self._ids = count()
        self._lanes: dict[LaneId, Given] = {}
        self._backlog = Backlog()
        self._outcomes = Intervals()
        self._pace = Pace()
        self._lost_alone: Counter[int] = Counter()
        self._copied: set[int] = set()  # indices that two lanes have, as one was late
        self._stirred: set[LaneId] = set()  # lanes for which something has changed
        self._shortened: list[Shortened] = []

    # The input

    def offer(self, items: int) -> None:
        """Note that the input's next `items` may be given out."""
        self._backlog.offer(items)
        self._stir_all()

    def close(self) -> None:
        """Note that the input has ended."""
        self._backlog.close()
        self._stir_all()

    @property
    def wanted(self) -> int:
        """How many more items should be read from the input now."""
        if self._backlog.closed:
            return 0
        sizes = sum(self._size(lane, None) for lane in self._lanes.values())
        return max(0, min(2 * sizes, READ_AHEAD) - len(self._backlog))

    @property
    def finished(self) -> bool:
        """Whether every index has its outcome."""
        return self._backlog.closed and not self._unfinished

    @property
    def _unfinished(self) -> int:
        return self._backlog.offered - len(self._outcomes)

    @property
    def waiting(self) -> int:
        """Items that no lane has."""
        return len(self._backlog)

    @property
    def waiting_s(self) -> float | None:
        """Computing time of what no lane has, in seconds; None before an item's time is known."""
        return None if self._pace.item_s is None else len(self._backlog) * self._pace.item_s

    # Lanes

    def join(self, lane: LaneId) -> None:
        """Take in a lane that stands."""
        self._lanes[lane] = Given(self._pace)
        self._stirred.add(lane)

    def away(self, lane: LaneId, now: float) -> None:
        """Note that a lane's worker computes for other maps."""
        self._lanes[lane].away(now)
        self._stirred.add(lane)

    def back(self, lane: LaneId, now: float) -> None:
        """Note that it computes for this one again."""
        self._lanes[lane].back(now)
        self._stirred.add(lane)

    def leaves(self, lane: LaneId) -> None:
        """Note that a lane's worker is to end: it gets nothing more."""
        self._lanes[lane].leaves = True

    def lost(self, lane: LaneId) -> list[int]:
        """Take back what a lane had; return the indices that are abandoned by that."""
        gone = self._lanes.pop(lane)
        blameless = gone.leaves or gone.away_since is not None
        abandoned = []
        for chunk in gone.chunks:
            alone = chunk.stop - chunk.start == 1 and not blameless
            to_blame = alone and (chunk.has_begun or not chunk.is_risked)
            if to_blame:
                self._lost_alone[chunk.start] += 1
            for missing in self._uncovered(chunk):
                if to_blame and self._lost_alone[chunk.start] > LOSSES:
                    abandoned += [index for one in self._take_in(missing) for index in one]
                else:
                    self._give_back(_pieces(missing))
        return abandoned

    def stirred(self) -> list[LaneId]:
        """Return which lanes should ask anew: idle ones, and others with news since the last call.

        To have all of them ask takes a large network's caller longer than to hear a worker.
        """
        stirred, self._stirred = self._stirred, set()
        if self.finished:
            return []
        more = not self._backlog.closed or len(self._backlog)
        return [
            key for key, one in self._lanes.items() if not one.chunks or (more and key in stirred)
        ]

    # Chunks

    def next(self, lane: LaneId, now: float, *, fresh: bool = True) -> Chunk | None:
        """Return what a lane is to compute beside what it has, or None if nothing now.

        Args:
            lane: that asks.
            now: seconds on a clock that does not go back.
            fresh: whether it may be what no lane has had yet; what came back always may.
        """
        one = self._lanes[lane]
        if one.leaves or (one.chunks and not self._should_queue(one, now)):
            return None
        size = self._size(one, self._unfinished if self._backlog.closed else None)
        while size:
            while given := self._backlog.take(size, fresh=fresh):
                if open_ones := self._outcomes.missing(given.start, given.stop):
                    self._give_back(open_ones[1:])
                    return self._give(lane, open_ones[0], now)
            if one.chunks or not self._backlog.closed:
                return None
            size = self._steal(lane, now)
        return self._copy(lane, now)

    def weighed(self, items: int, size: int) -> None:
        """Take in how many bytes some items are that were not given out."""
        self._pace.sent(items, size)

    def sent(self, chunk: Chunk, size: int) -> None:
        """Take in how many bytes the items of a chunk were."""
        for pace in self._paces(chunk.lane):
            pace.sent(chunk.stop - chunk.start, size)

    def begun(self, chunk: Chunk) -> None:
        """Take in that a worker begins an item that is risked."""
        chunk.has_begun = True

    def answered(
        self, chunk: Chunk, upto: int, busy_s: float, now: float, again: Collection[int] = ()
    ) -> list[range]:
        """Take in that a lane has answered a chunk up to an index.

        Args:
            chunk: as it was given out.
            upto: the index behind the last that was answered.
            busy_s: computing time of what is answered by this, in seconds.
            now: seconds on a clock that does not go back.
            again: indices among these that are to be computed once more, unless another lane has
                been given them since.

        Returns:
            The indices whose outcome this is; the others have had theirs before.
        """
        if upto <= chunk.done:
            return []
        for pace in self._paces(chunk.lane):
            pace.computed(upto - chunk.done, busy_s)
        first = chunk.done
        chunk.done, chunk.moved_at = upto, now
        chunk.busy_s += busy_s
        self._stirred.add(chunk.lane)
        cut_at = chunk.stop  # a worker that hears late goes beyond, to what others were given
        others_too = bool(self._copied) or upto > cut_at
        self._settle(chunk, now)
        self._shorten(chunk, now)
        fresh = []
        for index in sorted(again):
            fresh += self._take_in(range(first, index))
            if index < cut_at:
                self._give_back(self._outcomes.missing(index, index + 1))
            first = index + 1
        fresh += self._take_in(range(first, upto))
        if others_too:  # to look through all lanes takes long
            self._release(fresh, now)
        return fresh

    def unreadable(self, chunk: Chunk, now: float) -> int | None:
        """Take back what a lane could not read; return the index of an item that was alone in it.

        Others go out again in pieces, until the one that is to blame is alone.
        """
        lane = self._lanes.get(chunk.lane)
        if lane is None or chunk not in lane.chunks:
            return None
        self._drop(chunk, now)
        if chunk.items > 1:
            for missing in self._uncovered(chunk):
                self._give_back(_pieces(missing))
            return None
        fresh = self._take_in(range(chunk.start, chunk.stop))
        self._release(fresh, now)
        return chunk.start if fresh else None

    def shortenings(self) -> list[Shortened]:
        """Return what lanes are to be told, once each."""
        told, self._shortened = self._shortened, []
        return told

    def look_again_at(self, lane: LaneId, now: float, *, fresh: bool = True) -> float | None:
        """Return when a lane should ask anew though nothing has come, or None; see `next`."""
        one = self._lanes[lane]
        if one.leaves or one.away_since is not None:
            return None
        if one.chunks:
            waiting = len(self._backlog) if fresh else self._backlog.returned
            return one.nearly_done_at(now) if waiting else None
        if not self._backlog.closed:
            return None
        waits = [
            chunk.moved_at + one.patience_s
            for chunk in self._running(lane)
            if self._may_copy(self._open_index(chunk))
        ]
        return max(now, min(waits)) if waits and self._pace.item_s is not None else None

    # Giving out

    def _size(self, lane: Given, left: int | None) -> int:
        if self._fixed is not None:
            return self._fixed
        if self._pace.item_s is None:
            return first_size(self._pace, left, self._most_lanes)
        measured = lane.pace if lane.pace.item_s is not None else self._pace
        last = lane.last_size or (self._largest_last() if measured is self._pace else 0)
        return chunk_size(measured, last, left, max(1, len(self._lanes)), shared=lane.shared)

    def _largest_last(self) -> int:
        """Of all lanes: a lane that joins need not begin with one item again."""
        return max((one.last_size for one in self._lanes.values()), default=0) // GROWTH

    def _should_queue(self, lane: Given, now: float) -> bool:
        """Whether a lane that has a chunk is to get another one."""
        if lane.pace.item_s is None:
            return self._has_half_its_part(lane)
        return lane.is_nearly_done(now)

    def _has_half_its_part(self, lane: Given) -> bool:
        """Whether a lane of which nothing is known yet has the first of two chunks of a sequence.

        One item may be long, and is not to wait behind another.
        """
        whole = self._fixed is None and self._backlog.closed
        return whole and self._pace.item_s is None and len(lane.chunks) == 1 < len(lane.chunks[0])

    def _give(self, lane: LaneId, given: range, now: float) -> Chunk:
        one = self._lanes[lane]
        chunk = Chunk(
            next(self._ids),
            lane,
            given.start,
            given.stop,
            given.start,
            now,
            now,
            items=len(given),
            began_idle=not one.chunks,
            is_risked=len(given) == 1 and self._lost_alone[given.start] > 0,
        )
        one.chunks.append(chunk)
        one.last_size = len(given)
        return chunk

    def _steal(self, thief: LaneId, now: float) -> int:
        """Put back as much of the slowest lane's tail as makes both end together; return it."""
        victims = [one for key, one in self._lanes.items() if key != thief and one.chunks]
        if not victims:
            return 0
        victim = max(victims, key=lambda one: one.left_s(now))
        last = victim.chunks[-1]
        # What is computed at this moment stays, unless the whole chunk has yet to begin.
        spare = len(last) - (1 if len(victim.chunks) == 1 else 0)
        own = self._lanes[thief]
        gain_s, both_s = victim.left_s(now) - own.cost_s, own.item_s + victim.item_s
        even = int(gain_s / both_s) if both_s else -(-spare // 2)
        items = min(even, spare)
        if items < 1:
            return 0
        self._cut(last, last.stop - items, now)
        return items

    def _shorten(self, chunk: Chunk, now: float) -> None:
        """Put back what a lane would take too long for, as was not known when it got it."""
        lane = self._lanes.get(chunk.lane)
        if self._fixed is not None or lane is None:
            return
        kept = kept_of(lane.pace, sum(len(one) for one in lane.chunks))
        for one in tuple(lane.chunks):
            before = len(one)
            if kept < before:
                self._cut(one, one.done + kept, now)
            kept = max(0, kept - before)

    def _cut(self, chunk: Chunk, stop: int, now: float) -> None:
        """Have a lane stop earlier, and put back what is behind that."""
        taken = range(stop, chunk.stop)
        chunk.stop = stop
        self._shortened.append(Shortened(chunk.lane, chunk.id, stop))
        self._settle(chunk, now)
        self._give_back([taken])

    def _give_back(self, ranges: Collection[range]) -> None:
        """Have items be given out again."""
        if ranges:
            self._backlog.give_back(ranges)
            self._stir_all()

    def _stir_all(self) -> None:
        self._stirred.update(self._lanes)

    def _copy(self, lane: LaneId, now: float) -> Chunk | None:
        """Compute the item a second time that has been under way for longest."""
        if self._pace.item_s is None:
            return None
        late = [
            chunk
            for chunk in self._running(lane)
            if now - chunk.moved_at >= self._lanes[lane].patience_s
            and self._may_copy(self._open_index(chunk))
        ]
        if not late:
            return None
        index = self._open_index(min(late, key=lambda chunk: chunk.moved_at))
        self._copied.add(index)
        return self._give(lane, range(index, index + 1), now)

    def _running(self, but: LaneId) -> list[Chunk]:
        """What the other lanes are computing."""
        return [one.chunks[0] for key, one in self._lanes.items() if key != but and one.chunks]

    def _open_index(self, chunk: Chunk) -> int:
        """Return a chunk's first index without outcome; there is one while the chunk stands."""
        return self._outcomes.missing(chunk.done, chunk.stop)[0].start

    def _may_copy(self, index: int) -> bool:
        """Whether a further lane may compute an item; one that ended a worker is risked once."""
        copies = sum(
            chunk.done <= index < chunk.stop for one in self._lanes.values() for chunk in one.chunks
        )
        return copies < COPIES and not self._lost_alone[index]

    # Measures

    def _paces(self, lane: LaneId) -> tuple[Pace, ...]:
        one = self._lanes.get(lane)
        return (self._pace,) if one is None else (self._pace, one.pace)

    # Outcomes

    def _take_in(self, indices: range) -> list[range]:
        """Note outcomes; return those that are the first."""
        fresh = self._outcomes.add(indices.start, indices.stop)
        for one in fresh:
            self._copied -= {index for index in self._copied if index in one}
            for index in [index for index in self._lost_alone if index in one]:
                del self._lost_alone[index]
        return fresh

    def _release(self, parts: Collection[range], now: float) -> None:
        """Let go of chunks that are whole by these outcomes, whoever's: they need not go on."""
        for one in self._lanes.values():
            for chunk in tuple(one.chunks):
                if any(chunk.done < part.stop and part.start < chunk.stop for part in parts):
                    self._settle(chunk, now)

    def _settle(self, chunk: Chunk, now: float) -> None:
        """Take a chunk from its lane when nothing in it lacks its outcome."""
        lane = self._lanes.get(chunk.lane)
        if lane is None or chunk not in lane.chunks:
            return
        if chunk.done < chunk.stop and self._outcomes.missing(chunk.done, chunk.stop):
            return
        self._drop(chunk, now)
        if chunk.done < chunk.stop:
            chunk.stop = chunk.done
            self._shortened.append(Shortened(chunk.lane, chunk.id, chunk.stop))
        elif chunk.began_idle:
            for pace in self._paces(chunk.lane):
                pace.cost(now - chunk.sent_at - chunk.busy_s - chunk.away_s)

    def _drop(self, chunk: Chunk, now: float) -> None:
        """Take a chunk from its lane, which may have something else to do now."""
        self._lanes[chunk.lane].drop(chunk, now)
        self._stirred.add(chunk.lane)

    def _uncovered(self, chunk: Chunk) -> list[range]:
        """Return what of a lost chunk has no outcome and is no other lane's."""
        open_ones = Intervals()
        for one in self._lanes.values():
            for other in one.chunks:
                open_ones.add(other.done, other.stop)
        missing = self._outcomes.missing(chunk.done, chunk.stop)
        return [gap for one in missing for gap in open_ones.missing(one.start, one.stop)]


def _pieces(indices: range) -> list[range]:
    """Cut a range into a first item, which may be to blame, and equal parts."""
    size = -(-len(indices) // PIECES)
    parts = [indices[at : at + size] for at in range(0, len(indices), size)]
    return [*(part for part in (parts[0][:1], parts[0][1:]) if len(part)), *parts[1:]]
