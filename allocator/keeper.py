"""Keeps what services want kept (`min_instances`), as far as it is this allocator's part.

`keeping.py` decides from the view; here it is looked at now and then, and done.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import structlog
import trio

from allocator.errors import AllocatorError
from allocator.instances import Instances
from allocator.keeping import Duty, Holding, duty, is_short
from allocator.resting import Kept
from overlay.labels import unmet
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceState, PeerRecord
from overlay.rendezvous import ranked
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import InstanceView

LOOK_S = 1.0
"""How soon a change of the network is acted on; a start takes as long."""

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
    """Since when something is amiss with a service, on trio's clock; None is not at all."""

    lacking: float | None = None
    short: float | None = None
    retry_at: float = 0.0
    under_way: bool = False


@dataclass(slots=True)
class Keeper:
    """Does this allocator's part while `run` runs.

    Attributes:
        me: this allocator.
        instances: what is here.
        definitions: what services want.
        allocators: returns what each allocator that is a member says of itself, this one too.
        there: returns the instances of a service in the whole network.
    """

    me: PeerId
    instances: Instances
    definitions: Definitions
    allocators: Callable[[], Mapping[PeerId, PeerRecord]]
    there: Callable[[ServiceName], Iterable[InstanceView]]
    _watches: dict[ServiceName, _Watch] = field(default_factory=dict)

    async def run(self) -> None:
        """Look, do, and wait a moment, until cancelled."""
        turns = trio.CapacityLimiter(STARTS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            while True:
                begun = perf_counter()
                for given, count in self.look(trio.current_time()):
                    nursery.start_soon(self._start, given, count, turns)
                await trio.sleep(max(LOOK_S, LOOK_SHARE * (perf_counter() - begun)))

    def look(self, now: float) -> list[tuple[SignedRevision, int]]:
        """Keep what must be kept; return what to start now, and how many of each."""
        allocators = self.allocators()
        wanted = {name: given for name in self.definitions.names() if (given := self._given(name))}
        for name in self._watches.keys() - wanted.keys():
            del self._watches[name]
            self.instances.keep(name, 0, 0, Kept.NOT)
        due = [(g, self._look_at(name, g, allocators, now)) for name, g in wanted.items()]
        return [(given, count) for given, count in due if count]

    def _given(self, name: ServiceName) -> SignedRevision | None:
        """Return a service's revision if it wants instances kept."""
        given = self.definitions.get(name)
        spec = None if given is None else given.revision.spec
        return given if spec is not None and spec.min_instances else None

    def _look_at(
        self,
        name: ServiceName,
        given: SignedRevision,
        allocators: Mapping[PeerId, PeerRecord],
        now: float,
    ) -> int:
        spec, number = given.revision.spec, given.revision.number
        if spec is None or self.me not in allocators:
            return 0
        holdings = _holdings(spec, number, allocators, self.there(name))
        todo = duty(self.me, spec.min_instances, ranked(name, holdings), holdings)
        self.instances.keep(name, number, todo.keep, Kept(spec.min_state))
        return self._due(name, todo, is_short(spec.min_instances, holdings), now)

    def _due(self, name: ServiceName, todo: Duty, short: bool, now: float) -> int:
        watch = self._watches.setdefault(name, _Watch())
        watch.lacking = _since(watch.lacking, bool(todo.lacks), now)
        watch.short = _since(watch.short, short, now)
        if watch.under_way or now < watch.retry_at:
            return 0
        lacking_s = 0.0 if watch.lacking is None else now - watch.lacking
        return todo.starts(lacking_s, 0.0 if watch.short is None else now - watch.short)

    async def _start(self, given: SignedRevision, count: int, turns: trio.CapacityLimiter) -> None:
        name = given.revision.name
        watch = self._watches.setdefault(name, _Watch())
        watch.under_way = True
        try:
            async with turns:
                for _ in range(count):
                    await self.instances.start_another(given)
        except AllocatorError as exc:
            log.info("keeping.not_started", service=name, error=str(exc))
            watch.retry_at = trio.current_time() + RETRY_S
        finally:
            watch.under_way = False


def _since(since: float | None, holds: bool, now: float) -> float | None:
    """Return since when something holds without a break; None if it does not."""
    if not holds:
        return None
    return now if since is None else since


def _holdings(
    spec: ServiceSpec,
    number: int,
    allocators: Mapping[PeerId, PeerRecord],
    instances: Iterable[InstanceView],
) -> dict[PeerId, Holding]:
    usable: dict[PeerId, set[InstanceId]] = {}
    starting: dict[PeerId, set[InstanceId]] = {}
    for instance in instances:
        record = instance.record
        if record.revision != number or record.state is InstanceState.DRAINING:
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
