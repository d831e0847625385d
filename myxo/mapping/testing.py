"""Maps in virtual time: workers that are slow, far, late, shared, told to end, or die."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf

from myxo.mapping.given import Chunk, LaneId
from myxo.mapping.schedule import Schedule
from myxo.mapping.turns import Turns

MAX_EVENTS = 400_000


@dataclass(frozen=True, slots=True)
class Worker:
    """What computes for all maps, by turns.

    Attributes:
        item_s: returns how long an item takes it, in seconds.
        one_way_s: of a message either way, in seconds.
        joins_at, dies_at: seconds after the beginning.
        told_at: when it is told to end, which it does at the end of its item, or of `grace_s`.
        killed_by: items that end this worker in the moment that it begins them.
        returns_after_s: how long after its end another one takes its place, or None.
    """

    item_s: Callable[[int], float]
    one_way_s: float = 0.0005
    joins_at: float = 0.0
    dies_at: float | None = None
    told_at: float | None = None
    grace_s: float = 1.0
    killed_by: frozenset[int] = frozenset()
    returns_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """A map.

    Attributes:
        items: how many its input has.
        schedule: that is tried.
        begins_at: seconds after the beginning.
        cost: how many times longer its items take than the workers say.
        whole: whether its input is a sequence; else it is read as the schedule wants.
        kills: items that end a worker in the moment that it begins them.
        fails: items that are computed once more after their first outcome.
    """

    items: int
    schedule: Schedule
    begins_at: float = 0.0
    cost: float = 1.0
    whole: bool = False
    kills: frozenset[int] = frozenset()
    fails: frozenset[int] = frozenset()


@dataclass(slots=True)
class Outcome:
    """What a map came to.

    Attributes:
        ended_at: when every index had its outcome, in seconds.
        answered: how often each index was said to have its outcome.
        abandoned: the indices that were given up.
        computed: items that workers computed, those in vain too.
        chunks: messages that went to workers.
        busy: when each computed item was done, and how long it took.
    """

    ended_at: float = 0.0
    answered: dict[int, int] = field(default_factory=dict)
    abandoned: list[int] = field(default_factory=list)
    computed: int = 0
    chunks: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)

    def busy_s(self, since: float, until: float) -> float:
        """Return the computing time of items that were done in a time."""
        return sum(took_s for at, took_s in self.busy if since <= at <= until)


@dataclass(slots=True, eq=False)
class _Map:
    load: Load
    lanes: "dict[LaneId, _Lane]" = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    offered: int = 0
    failed: set[int] = field(default_factory=set)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """One map's chunks at one worker, and how far the first one is."""

    of: _Map
    id: LaneId
    seat: "_Seat"
    chunks: list[Chunk] = field(default_factory=list)
    stops: dict[int, int] = field(default_factory=dict)
    index: int | None = None
    said: int = 0
    busy_s: float = 0.0
    away: bool = False
    looks_at: float = inf


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker that stands."""

    worker: Worker
    lanes: list[_Lane] = field(default_factory=list)
    turns: Turns[_Lane] = field(default_factory=Turns)
    in_turn: _Lane | None = None
    turn_began: float = 0.0
    leaves: bool = False
    gone: bool = False


class Simulation:
    """Runs maps to their ends.

    Args:
        workers: each has a lane to each map.
        loads: the maps.
        reports_every: results that a worker sends together.
    """

    def __init__(
        self, workers: Sequence[Worker], loads: Sequence[Load], reports_every: int = 1
    ) -> None:
        self._every = reports_every
        self._ids = count()
        self._all = [_Map(load) for load in loads]
        self._maps: list[_Map] = []
        self._seats: list[_Seat] = []
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        for one in self._all:
            self._at(one.load.begins_at, partial(self._begin, one))
        for worker in workers:
            self._at(worker.joins_at, partial(self._join, worker))

    def run(self) -> list[Outcome]:
        """Return what the maps came to.

        Raises:
            AssertionError: if nothing happens any more and indices lack their outcome.
        """
        for _ in range(MAX_EVENTS):
            if all(one.ended for one in self._all):
                return [one.outcome for one in self._all]
            if not self._events:
                break
            self._now, _, event = heappop(self._events)
            event()
            for one in self._maps:
                self._read(one)
                self._serve(one)
                self._end(one)
        raise AssertionError(f"a map stands still at {self._now} s")

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._order), event))

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self._now + seconds, event)

    # Maps

    def _begin(self, one: _Map) -> None:
        self._maps.append(one)
        for seat in self._seats:
            self._open(one, seat)

    def _open(self, one: _Map, seat: _Seat) -> None:
        lane = _Lane(one, LaneId(next(self._ids)), seat)
        seat.lanes.append(lane)
        one.lanes[lane.id] = lane
        one.load.schedule.join(lane.id)

    def _read(self, one: _Map) -> None:
        """Read as much of the input as the schedule wants, or all of a sequence."""
        schedule, left = one.load.schedule, one.load.items - one.offered
        more = left if one.load.whole else min(schedule.wanted, left)
        schedule.offer(more)
        one.offered += more
        if one.offered == one.load.items:
            schedule.close()

    def _serve(self, one: _Map) -> None:
        """Give lanes what they may have, and tell workers where to stop."""
        schedule = one.load.schedule
        due = [key for key, lane in one.lanes.items() if lane.looks_at <= self._now]
        asking = {*schedule.stirred(), *due} & one.lanes.keys()  # of a map that has ended, none
        for lane in [one.lanes[key] for key in sorted(asking)]:
            if lane.looks_at <= self._now:
                lane.looks_at = inf
            one_way_s = lane.seat.worker.one_way_s
            while (chunk := schedule.next(lane.id, self._now)) is not None:
                one.outcome.chunks += 1
                self._after(one_way_s, partial(self._arrive, lane, chunk, chunk.stop))
            again = schedule.look_again_at(lane.id, self._now)
            if again is not None and self._now < again < lane.looks_at:
                lane.looks_at = again
                self._at(again, _nothing)
        for told in schedule.shortenings():
            reached = one.lanes.get(told.lane)
            if reached is not None:
                arrival = partial(reached.stops.update, {told.chunk: told.stop})
                self._after(reached.seat.worker.one_way_s, arrival)

    def _end(self, one: _Map) -> None:
        """Let go of the workers when each index has its outcome."""
        if one.ended or not one.load.schedule.finished:
            return
        one.ended = True
        one.outcome.ended_at = self._now
        for lane in one.lanes.values():
            lane.seat.lanes.remove(lane)
            lane.seat.turns.leave(lane)
            if lane.seat.in_turn is lane:
                self._after(0.0, partial(self._next_turn, lane.seat))
        one.lanes.clear()

    def _hear(self, lane: _Lane, what: Callable[[], None]) -> None:
        """Have a map hear of something that its worker says, if the lane still stands then."""

        def hear() -> None:
            if lane.id in lane.of.lanes:
                what()

        self._after(lane.seat.worker.one_way_s, hear)

    # Workers

    def _join(self, worker: Worker) -> None:
        seat = _Seat(worker)
        self._seats.append(seat)
        for one in self._maps:
            if not one.ended:
                self._open(one, seat)
        if worker.dies_at is not None:
            self._at(max(self._now, worker.dies_at), partial(self._die, seat))
        if worker.told_at is not None:
            self._at(max(self._now, worker.told_at), partial(self._tell_to_end, seat))

    def _tell_to_end(self, seat: _Seat) -> None:
        seat.leaves = True
        for lane in seat.lanes:
            self._hear(lane, partial(lane.of.load.schedule.leaves, lane.id))
        if seat.in_turn is None:
            self._after(seat.worker.one_way_s, partial(self._die, seat))
        else:
            self._after(seat.worker.grace_s, partial(self._die, seat))

    def _die(self, seat: _Seat) -> None:
        if seat.gone:
            return
        seat.gone = True
        self._seats.remove(seat)
        for lane in seat.lanes:
            self._hear(lane, partial(self._lose, lane))
        if seat.worker.returns_after_s is not None:
            again = replace(seat.worker, dies_at=None, told_at=None)
            self._after(seat.worker.returns_after_s, partial(self._join, again))

    def _lose(self, lane: _Lane) -> None:
        one = lane.of
        del one.lanes[lane.id]
        for index in one.load.schedule.lost(lane.id):
            one.outcome.abandoned.append(index)
            self._count(one, [range(index, index + 1)])

    def _arrive(self, lane: _Lane, chunk: Chunk, stop: int) -> None:
        seat = lane.seat
        if seat.gone or lane not in seat.lanes:
            return
        lane.stops.setdefault(chunk.id, stop)
        lane.chunks.append(chunk)
        seat.turns.ready(lane)
        if seat.in_turn is None:
            self._next_turn(seat)
        elif seat.in_turn is not lane:
            self._tell_away(lane)

    def _next_turn(self, seat: _Seat) -> None:
        seat.in_turn = None
        if seat.gone:
            return
        if seat.leaves:
            self._die(seat)
            return
        lane = seat.in_turn = seat.turns.next()
        seat.turn_began = self._now
        if lane is None:
            return
        for other in seat.turns.waiting:
            if other is not lane:
                self._tell_away(other)
        if lane.away:
            lane.away = False
            schedule = lane.of.load.schedule
            self._hear(lane, lambda: schedule.back(lane.id, self._now))
        self._compute(lane)

    def _tell_away(self, lane: _Lane) -> None:
        if lane.chunks and not lane.away:
            lane.away = True
            schedule = lane.of.load.schedule
            self._hear(lane, lambda: schedule.away(lane.id, self._now))

    def _compute(self, lane: _Lane) -> None:
        """Begin with the next item of a lane's first chunk."""
        chunk, seat = lane.chunks[0], lane.seat
        if lane.index is None:
            lane.index = lane.said = chunk.start
            if chunk.is_risked:
                self._hear(lane, partial(lane.of.load.schedule.begun, chunk))
        if lane.index >= lane.stops[chunk.id]:
            self._end_turn(lane, done=True)
            return
        if lane.index in seat.worker.killed_by | lane.of.load.kills:
            self._die(seat)
            return
        took_s = seat.worker.item_s(lane.index) * lane.of.load.cost
        lane.of.outcome.computed += 1
        self._after(took_s, partial(self._computed, lane, lane.index, took_s))

    def _computed(self, lane: _Lane, index: int, took_s: float) -> None:
        seat = lane.seat
        if seat.gone or seat.in_turn is not lane:
            return
        lane.index = index + 1
        lane.busy_s += took_s
        lane.of.outcome.busy.append((self._now, took_s))
        if lane.index - lane.said >= self._every:
            self._report(lane)
        if seat.turns.is_over(lane, self._now - seat.turn_began) or seat.leaves:
            self._end_turn(lane, done=lane.index >= lane.stops[lane.chunks[0].id])
        else:
            self._compute(lane)

    def _end_turn(self, lane: _Lane, *, done: bool) -> None:
        self._report(lane)
        if done:
            del lane.chunks[0]
            lane.index = None
        lane.seat.turns.used(lane, self._now - lane.seat.turn_began, more=bool(lane.chunks))
        self._next_turn(lane.seat)

    def _report(self, lane: _Lane) -> None:
        chunk, upto, busy_s = lane.chunks[0], lane.index, lane.busy_s
        if upto is None or upto == lane.said:
            return
        said = range(lane.said, upto)
        lane.said, lane.busy_s = upto, 0.0
        one = lane.of

        def hear() -> None:
            again = (one.load.fails - one.failed).intersection(said)
            one.failed |= again
            self._count(one, one.load.schedule.answered(chunk, upto, busy_s, self._now, again))

        self._hear(lane, hear)

    @staticmethod
    def _count(one: _Map, fresh: Iterable[range]) -> None:
        answered = one.outcome.answered
        for index in (index for indices in fresh for index in indices):
            answered[index] = answered.get(index, 0) + 1


def _nothing() -> None:
    """Pass: `_serve` then asks the lanes whose time has come."""


def constant(seconds: float) -> Callable[[int], float]:
    """Return a cost that is the same for each item."""
    return lambda _: seconds
