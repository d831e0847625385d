"""One map under way: its lanes, the schedule that feeds them, and the outcomes as they come.

There are as many lanes as the work that is left is worth, and as the network has room for: each is
asked for when the ones before it stand, and the proxy answers with a worker that runs, one that it
has started, or the word that there is no room.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from math import ceil
from typing import Any

import trio

from myxo.mapping.errors import FunctionUnusable, MapError, NoWorkers, Unpicklable
from myxo.mapping.faults import Fault
from myxo.mapping.flow import Flow, News
from myxo.mapping.frames import Frame, Kind, MalformedFrame
from myxo.mapping.functions import PickledFunction
from myxo.mapping.given import Chunk, LaneId
from myxo.mapping.items import Items
from myxo.mapping.lane import Lane, LaneLost, Refused
from myxo.mapping.loops import Settled
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.pace import GROWTH, LARGEST_BYTES
from myxo.mapping.packing import pack, unpack, unpicklable
from myxo.mapping.schedule import Schedule
from myxo.mapping.settings import MapSettings
from myxo.mapping.workers import Workers

WORTH_A_LANE_S = 0.1
"""Of computing that is left for each lane: about what the start of a worker takes."""

FIRST_LANES = 2
"""Before any item's time is known."""

RETRY_S = 0.2

FULL_S, LONGEST_FULL_S = 0.02, 1.0
"""Until one more worker is asked for where there was none but those that the map has: at first
soon, because the proxy may not have heard yet that the map before this one has ended."""

MAX_LOST = 20
"""Lanes in a row that end before they have answered anything."""

WEIGHED = (1, GROWTH, GROWTH**2)
"""Items that are packed to know their size before any chunk is."""

UNKNOWN_SERVICE = 404
NO_ROOM = frozenset({429, 503, 504})
"""What a proxy answers when it has no worker for now."""


LOST = Fault("WorkerLost", "every worker that computed the item was lost meanwhile")


class _NoOther(Exception):
    """The proxy gave a worker to which the map has a lane already: there is no other."""


class MapRun(Flow):
    """Runs one map.

    Args:
        function: what is computed.
        items: of what.
        schedule: which lane gets which.
        workers: where they are had.
        deliver: takes outcomes, each index once.
        settings: what the caller said.
        read_more: asks for so many items more of an input that is not whole; None where all are
            there.
    """

    def __init__(
        self,
        function: PickledFunction,
        items: Items,
        schedule: Schedule,
        workers: Workers,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        *,
        read_more: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(items, deliver, settings, read_more)
        self._function = function
        self._schedule = schedule
        self._workers = workers
        self._ids = count()
        self._lanes: dict[LaneId, Lane] = {}
        self._leaving: set[LaneId] = set()
        self._weighed = trio.Event()
        self._opening = 0
        self._full_s = 0.0
        self._lost = 0
        self._refusal: Refused | None = None
        self._registering = trio.Lock()
        self._registered = False
        self._tries: Counter[int] = Counter()
        self._lane_news: dict[LaneId, News] = {}
        self._settled: Settled = lambda: None

    def look_again(self) -> None:
        """Have each lane ask anew what it is to do, and see anew how many there should be."""
        super().look_again()
        for news in self._lane_news.values():
            news.tell()

    async def run(self, settled: Settled) -> None:
        """Call `settled` when each item has its outcome, then let go of the workers.

        Raises:
            MapError: it cannot be done.
        """
        self._settled = settled
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._weigh)
            while not self._schedule.finished:
                news = self._news.next
                if not self._lanes and trio.current_time() - started > self._settings.patience_s:
                    raise self._no_workers()
                if self._lanes:
                    started = trio.current_time()
                while self._lacks_lanes():
                    self._opening += 1
                    nursery.start_soon(self._keep_lane)
                with trio.move_on_after(RETRY_S):
                    await news.wait()
            settled()
            nursery.cancel_scope.cancel()

    async def _weigh(self) -> None:
        """Find out how large the first items are, while the first lanes are opened."""
        for items in WEIGHED:
            if self._settings.chunk != "auto" or items > (self._items.count or 0):
                break
            size = _size(_packed(self._items.take(range(items)), 0))
            self._schedule.weighed(items, size)
            if size * GROWTH > LARGEST_BYTES:
                break
        self._weighed.set()

    def _no_workers(self) -> NoWorkers:
        said = "" if self._refusal is None else f": {self._refusal}"
        return NoWorkers(
            f"no worker could be had at {self._workers.proxy} within "
            f"{self._settings.patience_s:g} s{said}"
        )

    def _lacks_lanes(self) -> bool:
        return self._opening + len(self._lanes) < self._wanted_lanes()

    def _wanted_lanes(self) -> int:
        """Return how many lanes the work that no lane has is worth, beside those that stand."""
        left_s = self._schedule.waiting_s
        more = FIRST_LANES if left_s is None else ceil(left_s / WORTH_A_LANE_S)
        more = min(more, self._schedule.waiting)
        if not self._lanes:
            return min(max(1, more), FIRST_LANES, self._settings.max_in_flight)
        # Asked for in doubling steps, so that few wait in vain where there is no room.
        most = 1 if self._full_s else len(self._lanes)
        return min(len(self._lanes) + min(more, most), self._settings.max_in_flight)

    # A lane

    async def _keep_lane(self) -> None:
        """Have a lane from its opening to its loss."""
        opening = True
        try:
            async with self._workers.lane() as lane:
                self._check_new(lane)
                key = LaneId(next(self._ids))
                self._opening -= 1
                opening = False
                self._lanes[key], self._lane_news[key] = lane, News()
                self._schedule.join(key)
                self._news.tell()
                try:
                    await self._use(key, lane)
                finally:
                    del self._lanes[key], self._lane_news[key]
                    is_leaving = key in self._leaving
                    self._leaving.discard(key)
                    lane.is_spare = self._schedule.finished and not is_leaving
                    for index in self._schedule.lost(key):
                        self._give_up(index, LOST, lane)
                    self._news.tell()
                    self._wake_stirred()
        except Refused as exc:
            await self._refused(exc)
        except _NoOther:
            self._full_s = min(max(FULL_S, 2 * self._full_s), LONGEST_FULL_S)
            await trio.sleep(self._full_s)
        except LaneLost:
            self._lost += 1
            if self._lost > MAX_LOST:
                raise NoWorkers("workers end before they answer; their logs say why") from None
            await trio.sleep(RETRY_S)
        finally:
            if opening:
                self._opening -= 1
                self._news.tell()

    def _check_new(self, lane: Lane) -> None:
        """Raise `_NoOther` if a lane leads to a worker to which there is one."""
        if any(other.id == lane.id for other in self._lanes.values()):
            raise _NoOther
        self._full_s = 0.0

    async def _refused(self, refusal: Refused) -> None:
        """Wait until it may be worth to ask again.

        Raises:
            NoWorkers: it never will be.
        """
        self._refusal = refusal
        if refusal.status == UNKNOWN_SERVICE:
            async with self._registering:
                if not self._registered:
                    await self._workers.register()
                    self._registered = True
        elif refusal.status not in NO_ROOM:
            raise NoWorkers(str(refusal)) from refusal
        await trio.sleep(RETRY_S)

    async def _use(self, key: LaneId, lane: Lane) -> None:
        if lane.python[:2] != sys.version_info[:2]:
            raise _other_python(lane)
        chunks: dict[int, Chunk] = {}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lane.held)
                nursery.start_soon(self._feed, key, lane, chunks)
                await self._hear(key, lane, chunks)
        except* LaneLost as group:
            if key not in self._leaving:
                raise LaneLost from group

    async def _feed(self, key: LaneId, lane: Lane, chunks: dict[int, Chunk]) -> None:
        """Send a lane what it is to compute, whenever something has changed for it."""
        digest = (self._function.digest, self._settings.timeout_s)
        begin = [Frame(Kind.BEGIN, parts=pack(digest))]
        if not self._weighed.is_set():  # a wait for nothing would still take a turn of each other
            await self._weighed.wait()
        while True:
            news, now = self._lane_news[key].next, trio.current_time()
            self._read(self._schedule.wanted)
            fresh = not self._is_held_back()  # else it may be what came back that the caller lacks
            chunk = self._schedule.next(key, now, fresh=fresh)
            if chunk is not None:
                number = lane.begin(chunk.id, chunk.stop)
                chunks[number] = chunk
                frame = self._framed(number, chunk)
                await self._tell_shortened()
                await lane.send(*begin, frame)  # each message of its own wakes two processes
                begin = []
                await trio.lowlevel.checkpoint()  # the others have a first before this one a second
                continue
            if begin:
                await lane.send(*begin)
                begin = []
            await self._tell_shortened()
            again = self._schedule.look_again_at(key, now, fresh=fresh)
            with trio.move_on_at(again if again is not None else float("inf")):
                await news.wait()

    def _framed(self, number: int, chunk: Chunk) -> Frame:
        """Return a chunk as it was given out: once others have their turn, they may take of it."""
        parts = _packed(self._items.take(range(chunk.start, chunk.stop)), chunk.start)
        self._schedule.sent(chunk, _size(parts))
        kind = Kind.RISKED if chunk.is_risked else Kind.CHUNK
        return Frame(kind, number, chunk.start, parts)

    async def _tell_shortened(self) -> None:
        for told in self._schedule.shortenings():
            lane = self._lanes.get(told.lane)
            if lane is not None:
                self._lane_news[told.lane].tell()  # it may have nothing left
                number = lane.stop(told.chunk, told.stop)
                try:
                    await lane.send(Frame(Kind.STOP, number, told.stop))
                except LaneLost:
                    continue  # its own task hears of it

    async def _hear(self, key: LaneId, lane: Lane, chunks: dict[int, Chunk]) -> None:
        while True:
            frame = await lane.receive()
            match frame.kind:
                case Kind.OUTCOMES:
                    await self._heard_outcomes(lane, chunks, frame)
                case Kind.BEGUN:
                    self._heard_begun(chunks, frame)
                case Kind.NEED:
                    await lane.send(Frame(Kind.FUNCTION, parts=[self._function.data]))
                case Kind.UNREADABLE:
                    await self._heard_unreadable(lane, chunks, frame)
                case Kind.REFUSED:
                    raise _unusable(unpack(frame.parts), lane)
                case Kind.AWAY:
                    self._schedule.away(key, trio.current_time())
                    self._wake_stirred()
                case Kind.BACK:
                    self._schedule.back(key, trio.current_time())
                    self._wake_stirred()
                case Kind.BYE:
                    self._leaving.add(key)
                    self._schedule.leaves(key)
                case _:
                    raise MalformedFrame(f"{frame.kind.name} is not for a caller")

    def _heard_begun(self, chunks: dict[int, Chunk], frame: Frame) -> None:
        if frame.chunk in chunks:
            self._schedule.begun(chunks[frame.chunk])

    async def _heard_outcomes(self, lane: Lane, chunks: dict[int, Chunk], frame: Frame) -> None:
        _forget_before(chunks, frame.chunk)
        if frame.chunk in chunks:
            lane.answered(frame.chunk, frame.upto)
            self._lost = 0
            self._take_in(lane, chunks[frame.chunk], frame)
            await self._go_on()

    async def _heard_unreadable(self, lane: Lane, chunks: dict[int, Chunk], frame: Frame) -> None:
        _forget_before(chunks, frame.chunk)
        if frame.chunk in chunks:
            chunk = chunks.pop(frame.chunk)
            lane.answered(frame.chunk, chunk.stop)
            index = self._schedule.unreadable(chunk, trio.current_time())
            if index is not None:
                self._give_up(index, unpack(frame.parts), lane)
            await self._go_on()

    async def _go_on(self) -> None:
        """Do what outcomes, or their lack, bring about."""
        if self._schedule.finished:
            self._settled()  # before others have their turn
        if self._schedule.finished or self._lacks_lanes():
            self._news.tell()
        self._wake_stirred()
        await self._tell_shortened()

    def _wake_stirred(self) -> None:
        """Have the lanes ask anew that may have something to do by what has happened."""
        for key in self._schedule.stirred():
            self._lane_news[key].tell()

    def _take_in(self, lane: Lane, chunk: Chunk, frame: Frame) -> None:
        busy_s, values, faults = _results(chunk, frame)
        first = frame.upto - len(values)
        by_index = {first + at: fault for at, fault in faults.items()}
        again = [index for index in by_index if self._may_retry(index)]
        now = trio.current_time()
        for fresh in self._schedule.answered(chunk, frame.upto, busy_s, now, again):
            whole = len(fresh) == len(values)
            its_values = values if whole else values[fresh.start - first : fresh.stop - first]
            its_faults = {index: fault for index, fault in by_index.items() if index in fresh}
            self._hand_over(Outcomes(fresh, its_values, its_faults, lane.worker))

    def _may_retry(self, index: int) -> bool:
        if self._tries[index] < self._settings.retries:
            self._tries[index] += 1
            return True
        return False

    def _hand_over(self, outcomes: Outcomes) -> None:
        for index in [tried for tried in self._tries if tried in outcomes.indices]:
            del self._tries[index]
        super()._hand_over(outcomes)

    def _give_up(self, index: int, fault: Fault, lane: Lane) -> None:
        self._hand_over(Outcomes(range(index, index + 1), [None], {index: fault}, lane.worker))


def _forget_before(chunks: dict[int, Chunk], number: int) -> None:
    """Let go of earlier chunks: a worker goes through them in order, and says no more of these."""
    for earlier in [one for one in chunks if one < number]:
        del chunks[earlier]


def _packed(items: Sequence[Any], start: int) -> list[Any]:
    """Return items as parts.

    Raises:
        Unpicklable: one cannot be pickled; the message says which.
    """
    try:
        return pack(items)
    except Exception:
        for at, exc in unpicklable(items):
            kind = type(items[at]).__qualname__
            raise Unpicklable(f"item {start + at} (a {kind}) cannot be sent: {exc}") from exc
        raise


def _results(chunk: Chunk, frame: Frame) -> tuple[float, list[Any], dict[int, Fault | Exception]]:
    """Return computing time, results and faults by position; all are faults if nobody can tell."""
    try:
        busy_s, values, faults = unpack(frame.parts)
    except Exception as exc:  # noqa: BLE001  (whatever a class of the user's does there)
        exc.add_note(f"among the results of items {chunk.done} to {frame.upto - 1} of the map")
        count = max(0, frame.upto - chunk.done)
        return 0.0, [None] * count, dict.fromkeys(range(count), exc)
    return busy_s, values, faults


def _size(parts: list[Any]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _other_python(lane: Lane) -> MapError:
    own, its = (".".join(str(n) for n in v[:2]) for v in (sys.version_info, lane.python))
    return FunctionUnusable(
        f"worker {lane.worker} runs Python {its}, and functions of Python {own} do not run there; "
        "install Myxo with the same one on both"
    )


def _unusable(fault: Fault, lane: Lane) -> MapError:
    return FunctionUnusable(
        f"worker {lane.worker} cannot load what was sent: {fault.kind}: {fault.message}\n"
        f"{fault.trace}"
    )
