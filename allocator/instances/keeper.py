"""Keeps as many instances as services want (`min_instances`), and no more than they may have.

That is, as far as it is this allocator's part.

`keeping.py` decides from the view; here it is looked at now and then, and done.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter
from typing import Any, Protocol

import structlog
import trio

from allocator.errors import AllocatorError
from allocator.instances.instances import Instances
from allocator.instances.keeping import SETTLE_S, Allowance, Holding, duty, excess, is_short
from allocator.instances.resting import Kept
from overlay.labels import unmet
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceState, PeerRecord
from overlay.rendezvous import ranked
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import InstanceView

LOOK_S = 1.0
"""How soon a change of the network is acted on; the end of a start is at once."""

LOOK_SHARE = 20
"""A look that takes long is followed by a pause so many times as long: 5 % of a core at most."""

STARTS_AT_ONCE = 2
"""So that a machine that joins a large network still has processors for requests."""

RETRY_S = 10.0
"""After a start that was refused: no room, or no image."""

log = structlog.get_logger()


class Definitions(Protocol):
    """What the keeper needs of the replica of definitions."""

    def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest known revision of a service."""
        ...

    def names(self) -> list[ServiceName]:
        """Return every known service."""
        ...


@dataclass(slots=True)
class _Watch:
    """What is amiss with a service, and what is done about it; times are on trio's clock.

    Attributes:
        lacking: since when this allocator has too few of its part; None is not at all.
        short: since when the network has too few; likewise.
        over: since when this allocator has instances to give up; likewise.
        begun: when the last start was begun, for services to take turns.
        under_way: the generation that is being started; 0 is none.
        withheld: how many instances are lacking because no more may be kept here.
    """

    lacking: float | None = None
    short: float | None = None
    over: float | None = None
    retry_at: float = 0.0
    begun: float = 0.0
    under_way: int = 0
    withheld: int = 0


@dataclass(slots=True)
class Keeper:
    """Does this allocator's part while `run` runs.

    A start is begun only at once after a look, one of each service, so that none is begun for what
    was lacking a while ago. It takes up a place while the machine works on it, which it does not
    while it waits for an image: one that comes slowly is in nobody's way.

    Attributes:
        me: this allocator.
        instances: what is here.
        definitions: what services want.
        allocators: returns what each allocator that is a member says of itself, this one too.
        there: returns the instances of a service in the whole network.
        most_kept: returns how many may be kept for one owner; None is no bound.
        most_in_all: for all owners who have a bound.
        stopwatch: tells how long a look takes, in seconds of this machine's own time.
    """

    me: PeerId
    instances: Instances
    definitions: Definitions
    allocators: Callable[[], Mapping[PeerId, PeerRecord]]
    there: Callable[[ServiceName], Iterable[InstanceView]]
    most_kept: Callable[[PeerId], int | None] = lambda _: None
    most_in_all: int = 0
    stopwatch: Callable[[], float] = perf_counter
    _watches: dict[ServiceName, _Watch] = field(default_factory=dict)
    _ended: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Look, do, and wait a moment, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                begun = self.stopwatch()
                self._ended = trio.Event()
                for given in self.look(trio.current_time()):
                    self._watches[given.revision.name].under_way = given.revision.generation
                    nursery.start_soon(self._start, given)
                await trio.sleep(LOOK_SHARE * (self.stopwatch() - begun))
                with trio.move_on_after(LOOK_S):
                    await self._ended.wait()

    def look(self, now: float) -> list[SignedRevision]:
        """Keep what must be kept; return what to start one more of now."""
        allocators = self.allocators()
        here = self.instances.services()
        wanted = {
            name: given
            for name in self.definitions.names()
            if (given := self._given(name, here=name in here))
        }
        for name in self._watches.keys() - wanted.keys():
            self.instances.keep(name, 0, 0, Kept.NOT)
            if not self._watches[name].under_way:
                del self._watches[name]
        for name in wanted:
            self._watches.setdefault(name, _Watch())
        allowance = Allowance(cache(self.most_kept), self.most_in_all)
        due = [
            wanted[name]
            for name in self._watches  # in the order in which they came
            if name in wanted and self._is_due(name, wanted[name], allocators, allowance, now)
        ]
        due.sort(key=lambda given: self._watches[given.revision.name].begun)
        return due[: max(0, STARTS_AT_ONCE - self._places_taken())]

    def status(self) -> list[dict[str, Any]]:
        """Return of which services fewer are kept than they want, as JSON-ready values."""
        found = [
            (name, self.definitions.get(name), w.withheld) for name, w in self._watches.items()
        ]
        return [
            {
                "service": name,
                "owner": given.owner,
                "withheld": withheld,
                "most_of_owner": self.most_kept(given.owner),
                "most_in_all": self.most_in_all,
            }
            for name, given, withheld in found
            if withheld and given is not None
        ]

    def _places_taken(self) -> int:
        """Return how many of this keeper's starts the machine works on."""
        return sum(
            bool(watch.under_way) and not self.instances.fetches(name, watch.under_way)
            for name, watch in self._watches.items()
        )

    def _given(self, name: ServiceName, *, here: bool) -> SignedRevision | None:
        """Return a service's revision if it wants instances kept, or may have only so many here."""
        given = self.definitions.get(name)
        spec = None if given is None else given.revision.spec
        if spec is None:
            return None
        return given if spec.min_instances or (here and spec.max_instances) else None

    def _is_due(
        self,
        name: ServiceName,
        given: SignedRevision,
        allocators: Mapping[PeerId, PeerRecord],
        allowance: Allowance,
        now: float,
    ) -> bool:
        """Keep what must be kept of a service, and no more; return whether to start one of it."""
        spec, generation = given.revision.spec, given.revision.generation
        watch = self._watches[name]
        if spec is None or self.me not in allocators:
            return False
        holdings = _holdings(spec, generation, allocators, self.there(name))
        order = ranked(name, holdings)
        todo = duty(self.me, spec.min_instances, order, holdings)
        keep = allowance.take(given.owner, todo.keep)
        self.instances.keep(name, generation, keep, Kept(spec.min_state))
        if spec.max_instances:
            over = excess(self.me, spec.min_instances, spec.max_instances, order, holdings)
            self._let_go(given, over, now)
        watch.lacking = _since(watch.lacking, bool(todo.lacks), now)
        watch.short = _since(watch.short, is_short(spec.min_instances, holdings), now)
        lacks = max(todo.lacks, bool(watch.under_way))
        may_start = allowance.take(given.owner, lacks)
        self._withhold(name, watch, todo.keep + lacks - keep - may_start)
        if watch.under_way or now < watch.retry_at:
            return False
        lacking_s = 0.0 if watch.lacking is None else now - watch.lacking
        short_s = 0.0 if watch.short is None else now - watch.short
        if not todo.is_due(lacking_s, short_s):
            return False
        return bool(may_start or (not lacks and allowance.take(given.owner, 1)))

    def _let_go(self, given: SignedRevision, over: int, now: float) -> None:
        """Give up what a service has too many of, once that is no mere moment."""
        watch = self._watches[given.revision.name]
        watch.over = _since(watch.over, bool(over), now)
        if watch.over is not None and now - watch.over >= SETTLE_S:
            self.instances.let_go(given.revision.name, given.revision.generation, over)

    @staticmethod
    def _withhold(name: ServiceName, watch: _Watch, count: int) -> None:
        if count and not watch.withheld:
            log.warning("keeping.bounded", service=name, withheld=count)
        watch.withheld = count

    async def _start(self, given: SignedRevision) -> None:
        name = given.revision.name
        watch = self._watches[name]
        watch.begun = trio.current_time()
        try:
            await self.instances.start_another(given)
        except AllocatorError as exc:
            log.info("keeping.not_started", service=name, error=str(exc))
            watch.retry_at = trio.current_time() + RETRY_S
        finally:
            watch.under_way = 0
            self._ended.set()


def _since(since: float | None, holds: bool, now: float) -> float | None:
    """Return since when something holds without a break; None if it does not."""
    if not holds:
        return None
    return now if since is None else since


def _holdings(
    spec: ServiceSpec,
    generation: int,
    allocators: Mapping[PeerId, PeerRecord],
    instances: Iterable[InstanceView],
) -> dict[PeerId, Holding]:
    usable: dict[PeerId, set[InstanceId]] = {}
    starting: dict[PeerId, set[InstanceId]] = {}
    for instance in instances:
        record = instance.record
        if record.revision != generation or record.state is InstanceState.DRAINING:
            continue
        table = starting if record.state is InstanceState.STARTING else usable
        table.setdefault(instance.owner, set()).add(record.id)
    found = {}
    for peer, record_of in allocators.items():
        has, comes = len(usable.get(peer, ())), len(starting.get(peer, ()))
        able = bool(has or comes) or could_run(record_of, spec)
        found[peer] = Holding(able, has, comes)
    return found


def could_run(record: PeerRecord, spec: ServiceSpec) -> bool:
    """Return whether an allocator that says this of itself could start one more instance."""
    room = record.room
    return (
        spec.runtime in record.runtimes
        and (spec.image is None or record.platform in spec.image.platforms)
        and room is not None
        and room.fits(spec)
        and next(unmet(spec.constraints, record.called), None) is None
    )
