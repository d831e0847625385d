"""A map in virtual time: workers that are slow, far, late or die, for a schedule to be tried."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import count

from myxo.mapping.schedule import Chunk, LaneId, Schedule

MAX_EVENTS = 200_000


@dataclass(frozen=True, slots=True)
class Worker:
    """One lane's other end.

    Attributes:
        item_s: returns how long an item takes it, in seconds.
        one_way_s: of a message either way, in seconds.
        joins_at, dies_at: seconds after the map began.
        killed_by: items that end this worker in the moment that it begins them.
        returns_after_s: how long after its end another one takes its place, or None.
    """

    item_s: Callable[[int], float]
    one_way_s: float = 0.0005
    joins_at: float = 0.0
    dies_at: float | None = None
    killed_by: frozenset[int] = frozenset()
    returns_after_s: float | None = None


@dataclass(slots=True)
class Outcome:
    """What a map came to.

    Attributes:
        took_s: until every index had its outcome, in seconds.
        answered: how often each index was said to have its outcome.
        abandoned: the indices that were given up.
        computed: items that workers computed, those in vain too.
        chunks: messages that went to workers.
    """

    took_s: float = 0.0
    answered: dict[int, int] = field(default_factory=dict)
    abandoned: list[int] = field(default_factory=list)
    computed: int = 0
    chunks: int = 0


@dataclass(slots=True)
class _Seat:
    """A worker that stands, what it was sent, and up to where each chunk is to be computed."""

    worker: Worker
    queue: list[Chunk] = field(default_factory=list)
    stops: dict[int, int] = field(default_factory=dict)
    busy: bool = False


class Simulation:
    """Runs one map to its end.

    Args:
        workers: one for each lane.
        items: how many the input has.
        schedule: that is tried.
        reports_every: results that a worker sends together.
    """

    def __init__(
        self, workers: Sequence[Worker], items: int, schedule: Schedule, reports_every: int = 1
    ) -> None:
        self._schedule = schedule
        self._items = items
        self._every = reports_every
        self._lanes = count()
        self._seats: dict[LaneId, _Seat] = {}
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._offered = 0
        self._outcome = Outcome()
        for worker in workers:
            self._at(worker.joins_at, partial(self._join, worker))

    def run(self) -> Outcome:
        """Return what the map came to.

        Raises:
            AssertionError: if nothing happens any more and indices lack their outcome.
        """
        self._read()
        for _ in range(MAX_EVENTS):
            if self._schedule.finished:
                self._outcome.took_s = self._now
                return self._outcome
            if not self._events:
                break
            self._now, _, event = heappop(self._events)
            event()
            self._read()
            self._serve()
        raise AssertionError(f"the map stands still at {self._now} s")

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._order), event))

    def _read(self) -> None:
        """Read as much of the input as the schedule wants."""
        more = min(self._schedule.wanted, self._items - self._offered)
        self._schedule.offer(more)
        self._offered += more
        if self._offered == self._items:
            self._schedule.close()

    def _serve(self) -> None:
        """Give each lane what it may have, and tell workers where to stop."""
        for lane, seat in tuple(self._seats.items()):
            while (chunk := self._schedule.next(lane, self._now)) is not None:
                self._outcome.chunks += 1
                self._at(self._now + seat.worker.one_way_s, self._arrival(lane, chunk))
            again = self._schedule.look_again_at(lane, self._now)
            if again is not None and again > self._now:
                self._at(again, lambda: None)
        for told in self._schedule.shortenings():
            reached = self._seats.get(told.lane)
            if reached is not None:
                arrival = partial(reached.stops.update, {told.chunk: told.stop})
                self._at(self._now + reached.worker.one_way_s, arrival)

    # Workers

    def _join(self, worker: Worker) -> None:
        lane = LaneId(next(self._lanes))
        self._seats[lane] = _Seat(worker)
        self._schedule.join(lane)
        if worker.dies_at is not None:
            self._at(max(self._now, worker.dies_at), lambda: self._die(lane))

    def _die(self, lane: LaneId) -> None:
        seat = self._seats.pop(lane, None)
        if seat is None:
            return
        for index in self._schedule.lost(lane, self._now):
            self._outcome.abandoned.append(index)
            self._count([range(index, index + 1)])
        if seat.worker.returns_after_s is not None:
            again = replace(seat.worker, dies_at=None)
            self._at(self._now + seat.worker.returns_after_s, lambda: self._join(again))

    def _arrival(self, lane: LaneId, chunk: Chunk) -> Callable[[], None]:
        stop = chunk.stop

        def arrive() -> None:
            seat = self._seats.get(lane)
            if seat is not None:
                seat.stops.setdefault(chunk.id, stop)
                seat.queue.append(chunk)
                if not seat.busy:
                    self._compute(lane, seat, chunk, chunk.start, chunk.start, 0.0)

        return arrive

    def _compute(
        self, lane: LaneId, seat: _Seat, chunk: Chunk, index: int, said: int, busy_s: float
    ) -> None:
        """Begin with an index of a chunk; `said` and `busy_s` are what the last report left."""
        if self._seats.get(lane) is not seat:
            return
        if index >= seat.stops[chunk.id]:
            if index > said:
                self._report(lane, seat, chunk, index, busy_s)
            seat.queue.remove(chunk)
            seat.busy = False
            if seat.queue:
                follower = seat.queue[0]
                self._compute(lane, seat, follower, follower.start, follower.start, 0.0)
            return
        seat.busy = True
        if index in seat.worker.killed_by:
            self._die(lane)
            return
        took_s = seat.worker.item_s(index)
        self._outcome.computed += 1

        def end() -> None:
            nonlocal said, busy_s
            busy_s += took_s
            if self._seats.get(lane) is seat and index + 1 - said >= self._every:
                self._report(lane, seat, chunk, index + 1, busy_s)
                said, busy_s = index + 1, 0.0
            self._compute(lane, seat, chunk, index + 1, said, busy_s)

        self._at(self._now + took_s, end)

    def _report(self, lane: LaneId, seat: _Seat, chunk: Chunk, upto: int, busy_s: float) -> None:
        def hear() -> None:
            if self._seats.get(lane) is seat:
                self._count(self._schedule.answered(chunk, upto, busy_s, self._now))

        self._at(self._now + seat.worker.one_way_s, hear)

    def _count(self, fresh: Iterable[range]) -> None:
        for index in (index for one in fresh for index in one):
            self._outcome.answered[index] = self._outcome.answered.get(index, 0) + 1


def constant(seconds: float) -> Callable[[int], float]:
    """Return a cost that is the same for each item."""
    return lambda _: seconds
