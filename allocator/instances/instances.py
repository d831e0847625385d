"""The instances of this machine: started once however many ask, woken, found, and put away.

    allocate ──► a ready instance with room ────────────► answered at once
        │
        └──────► the flight of this revision, joined or begun ──► answered when it is ready:
                 it wakes a paused instance if there is one, else it starts one

Each instance has one task, which lives its life (`life.py`). All decisions about shared state are
made between two awaits, so that there are no locks.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import structlog
import trio

from allocator.errors import (
    AllocatorError,
    Exited,
    InstanceGone,
    LaunchFailed,
    NotReady,
    Refused,
)
from allocator.instances.adoption import adopt_all
from allocator.instances.arrivals import Arrivals
from allocator.instances.checkups import Check, Checkups
from allocator.instances.crashes import CrashGuard, CrashLoop
from allocator.instances.demand import Demand
from allocator.instances.flight import Flight
from allocator.instances.flights import Flights
from allocator.instances.instance import Instance, Publisher
from allocator.instances.leftovers import Leftovers
from allocator.instances.life import Life
from allocator.instances.lifecycle import BEGINNING, RESTING, USABLE, State
from allocator.instances.outlook import Outlook, outlook
from allocator.instances.pauses import Pauses
from allocator.instances.pool import Pool
from allocator.instances.readiness import answers, wait_ready
from allocator.instances.register import Register
from allocator.instances.resting import Kept, Why
from allocator.instances.showing import shown
from allocator.instances.starts import ReadyWait, Starts
from allocator.instances.use import Use
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Policy
from allocator.rules.standby import Bounds
from allocator.rules.turns import PARALLEL_STARTS_PER_CORE, Turns
from allocator.runtime import Running, Runtime
from overlay.allocation import AllocationRefusal
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.records import Room
from overlay.revision import SignedRevision
from overlay.signed import Signed
from overlay.spec import ServiceSpec

UNBOUNDED = Bounds(memory_mib=2**31, instances=2**31)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Allocated:
    """A ready instance's signed record and, in seconds by phase, where the time went."""

    record: Signed
    phases: Mapping[str, float]


class Instances:
    """Everything that runs here; all methods need `run` to be running.

    Args:
        runtimes: by name; their `run` is the caller's to run.
        ledger: what is promised to whom.
        policy: what may run here.
        publisher: tells the network.
        metrics: counts.
        standby: what paused instances may have; no instance is paused where that is none.
        known: returns the newest revision of a name that this machine has heard of.
        elsewhere: returns how many instances of a service other machines have.
        room_changed: called with what is left after each change.
        ready: waits until an instance is ready.
        check: asks whether it stays well.
        proxy_port: where instances find this machine's proxy.
        parallel_starts: how many starts may be under way at once; the others wait their turn.

    Attributes:
        use: who uses what is here.
        admitted: told of each revision that is about to be started, once it has passed every check.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        ledger: Ledger,
        policy: Policy,
        publisher: Publisher,
        metrics: AllocatorMetrics,
        *,
        standby: Bounds = UNBOUNDED,
        known: Callable[[ServiceName], SignedRevision | None] = lambda _: None,
        elsewhere: Callable[[ServiceName], int] = lambda _: 0,
        room_changed: Callable[[Room], None] = lambda _: None,
        ready: ReadyWait = wait_ready,
        check: Check = answers,
        proxy_port: int = 4200,
        parallel_starts: int = PARALLEL_STARTS_PER_CORE,
    ) -> None:
        self._runtimes = runtimes
        self._ledger = ledger
        self._metrics = metrics
        self._room_changed = room_changed
        self._crashes = CrashGuard()
        self._instances: dict[InstanceId, Instance] = {}
        self._leftovers = Leftovers()
        self._nursery: trio.Nursery | None = None
        self.use = Use(self._instances, metrics)
        self.admitted: Callable[[SignedRevision], None] = lambda _: None
        self._turns = Turns(parallel_starts)
        self._arrivals = Arrivals(
            self._instances,
            runtimes,
            ledger,
            policy,
            self._crashes,
            known=known,
            elsewhere=elsewhere,
            pausable_at=0.0 if standby.instances > 0 else inf,
        )
        self._flights = Flights(self._instances, self._turns)
        self._register = Register(publisher, ledger, metrics, self._crashes, room_changed)
        self._demand = Demand(self._instances, self.use)
        self._pool = Pool(
            self._instances, ledger, self.use, standby, lambda: self._register.resume_s
        )
        self._starts = Starts(self._register, self._turns, ready, proxy_port=proxy_port)
        self._pauses = Pauses(self._register, self._starts.await_ready, self._pool.hold_bounds)
        checkups = Checkups(self._register, check)
        self._life = Life(self._register, self._pauses, self.use, self._leftovers.keep, checkups)
        metrics.starts_waiting(lambda: self._turns.waiting)
        metrics.standby(ledger.resting_mib)
        metrics.crash_loops(lambda: sum(loop.wait_s > 0 for loop in self._loops()))

    def set_proxy_port(self, port: int) -> None:
        """Tell instances that are started from now on where this machine's proxy is."""
        self._starts.proxy_port = port

    # allocation

    async def allocate(
        self,
        given: SignedRevision,
        exclude: Collection[str] = (),
        request_id: str = "",
        *,
        caller: PeerId | None = None,
    ) -> Allocated:
        """Return a ready instance of `given`: one that is there and has room, or a new one.

        Args:
            given: the revision that the caller knows.
            exclude: ids of instances that it cannot use.
            request_id: of the request that waits, for logs.
            caller: the peer that asks; None is this machine itself.

        Raises:
            AllocatorError: why there is none; its `code` says what the caller may do.
        """
        try:
            return await self._allocate(given, exclude, request_id, caller)
        except AllocatorError as exc:
            self._metrics.allocated(exc.code.value)
            raise

    async def start_another(self, given: SignedRevision) -> Allocated:
        """Start one more instance of `given`, whatever there is, or join a start of one.

        Raises:
            AllocatorError: as `allocate`.
        """
        return await self.allocate(given, exclude=set(self._instances), request_id="min_instances")

    async def awake(self, instance: InstanceId) -> None:
        """Return when a paused instance is ready again.

        Raises:
            InstanceGone: it is not there, or cannot be woken.
        """
        found = self._instances.get(instance)
        if found is None:
            raise InstanceGone(f"there is no instance {instance[:80]} here")
        try:
            if found.state is not State.READY:
                self._wake(found)
                await self._flights.landed(found)
        except AllocatorError as exc:
            raise InstanceGone(f"the instance {found.id} cannot be woken: {exc}") from exc

    async def _allocate(
        self,
        given: SignedRevision,
        exclude: Collection[str],
        request_id: str,
        caller: PeerId | None,
    ) -> Allocated:
        spec = self._arrivals.checked(given, caller)
        key = given.revision.name, given.revision.generation
        found = self._flights.ready(key, exclude)
        if found is not None and found.record is not None:
            self._metrics.allocated("found")
            return Allocated(found.record, {})
        joined = self._flights.under_way(key, exclude)
        instance = joined or self._flights.resting(key, exclude)
        if instance is None:
            nursery = self._nursery_now()
            instance = self._arrivals.admit(given, spec)
            self.admitted(given)
            flight = self._take_off(nursery, instance, request_id, caller)
        else:
            flight = self._wake(instance)
        try:
            record = await self._flights.landed(instance)
        except (Exited, InstanceGone, LaunchFailed, NotReady):
            if not flight.wakes:
                raise
            return await self._allocate(given, {*exclude, instance.id}, request_id, caller)
        self._metrics.allocated("joined" if joined else "woken" if flight.wakes else "ready")
        return Allocated(record, {"queue": 0.0} | flight.phases)

    def _wake(self, instance: Instance) -> Flight:
        """Begin to wake a resting instance, or join its flight; its promise is entered at once.

        Raises:
            Refused: there is no room for it to run.
            InstanceGone: it is not resting.
        """
        if instance.wanted and instance.flight is not None:
            return instance.flight
        if instance.state not in RESTING or instance.unwanted:
            raise InstanceGone(f"the instance {instance.id} is {instance.state}")
        self._arrivals.readmit(instance)
        self._promised(instance)
        self._room_changed(self._ledger.room())
        flight = instance.flight = Flight(wakes=True)
        instance.notify()
        return flight

    def _take_off(
        self, nursery: trio.Nursery, instance: Instance, request_id: str, caller: PeerId | None
    ) -> Flight:
        """Begin the life of a new instance."""
        self._promised(instance)
        flight = instance.flight = Flight(caller=caller)
        log.info(
            "instance.starting", service=instance.service, id=instance.id, request_id=request_id
        )
        self._begin(nursery, instance, partial(self._starts.start, instance, flight))
        nursery.start_soon(self._starts.announce, instance)
        return flight

    def _promised(self, instance: Instance) -> None:
        """Take in that one more instance is needed and has its room; what is in the way goes."""
        self._demand.exceeds(instance)
        self._pool.make_room()

    def _begin(
        self, nursery: trio.Nursery, instance: Instance, begin: Callable[[], Awaitable[None]]
    ) -> None:
        self._instances[instance.id] = instance
        self._metrics.moved(None, instance.state)
        self._room_changed(self._ledger.room())
        nursery.start_soon(self._live, instance, begin)

    async def _live(self, instance: Instance, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._life.live(instance, begin)
        except Exception:  # a bug that one instance meets must not end all others
            log.exception("instance.life_failed", service=instance.service, id=instance.id)
        finally:
            del self._instances[instance.id]

    # what the network keeps

    def keep(self, service: ServiceName, revision: int, count: int, how: Kept) -> None:
        """Keep `count` instances of a revision as `how` says, and no others of the service."""
        here = [i for i in self._all() if i.service == service and not i.unwanted]
        kept = sorted(
            (i for i in here if i.revision == revision and i.state in USABLE),
            key=lambda i: (i.kept is Kept.NOT, (i.state is State.READY) is (how is Kept.PAUSED)),
        )[:count]
        for instance in here:
            self._set_kept(instance, how if instance in kept else Kept.NOT)

    def _set_kept(self, instance: Instance, how: Kept) -> None:
        if instance.kept is not how:
            instance.kept = how
            if instance.state is State.PAUSED and not instance.wanted:
                self._register.rests(instance)
            instance.notify()
        if how is Kept.RUNNING and instance.state is State.PAUSED:
            with suppress(AllocatorError):  # tried again at the next look
                self._wake(instance)

    def let_go(self, service: ServiceName, generation: int, count: int) -> None:
        """Drain `count` instances of a service that has more than it may; busy ones last."""
        here = [i for i in self._all() if i.key == (service, generation) and not i.unwanted]
        here = [i for i in here if i.state in USABLE]
        here.sort(key=lambda i: (i.kept is not Kept.NOT, i.state is State.READY, i.load))
        for instance in here[:count]:
            instance.give_up(Why.TOO_MANY)

    # ends

    def drain_outdated(self, service: ServiceName, newest: int | None) -> None:
        """Drain the instances of `service` below revision `newest`, or all if there is none."""
        self._crashes.forget(service, newest)
        for instance in self._instances.values():
            if instance.service == service and (newest is None or instance.revision < newest):
                instance.give_up(Why.OUTDATED)

    def adjust(self, service: ServiceName, generation: int, spec: ServiceSpec) -> None:
        """Have the instances of a generation go by what a later revision says of their use."""
        for instance in self._all():
            if instance.key == (service, generation) and instance.spec != spec:
                self._register.adjust(instance, spec)
                self.use.adjust(instance)
                instance.notify()

    # view

    def services(self) -> set[ServiceName]:
        """Return the services that have instances here."""
        return {i.service for i in self._instances.values()}

    def fetches(self, service: ServiceName, revision: int) -> bool:
        """Return whether a start of a revision waits for its image, and none is further on."""
        states = {i.state for i in self._all() if i.key == (service, revision)}
        return State.PULLING in states and not states & (BEGINNING - {State.PULLING})

    def outlook(self, service: ServiceName, revision: int) -> Outlook:
        """Return what a start of a service would meet here."""
        return outlook(self._all(), service, revision, self._register.resume_s)

    def room(self) -> Room:
        """Return what is left."""
        return self._ledger.room()

    def images(self) -> set[Digest]:
        """Return the images that instances run from, or are about to."""
        return {i.spec.image.config_digest for i in self._all() if i.spec.image is not None}

    def status(self) -> dict[str, Any]:
        """Return what is here, what rests, what failed and what went, as JSON-ready values."""
        now = trio.current_time()
        return shown(self._all(), self._loops(), self._register.gone, now) | {
            "standby": self._pool.status()
        }

    def _loops(self) -> list[CrashLoop]:
        return self._crashes.loops(trio.current_time())

    def _all(self) -> Iterable[Instance]:
        return self._instances.values()

    # the whole

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep instances until cancelled, then drain and remove them all within a few seconds.

        `started` when what an earlier run left is adopted. What cannot be removed in time is named.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(adopt_all, self._runtimes.values(), self._adopt)
                nursery.start_soon(self._leftovers.run)
                nursery.start_soon(self._demand.run)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # nothing starts from now on
        finally:
            self._leftovers.name()

    def _adopt(self, found: Running, runtime: Runtime) -> None:
        if found.id in self._instances:
            return
        instance = self._arrivals.adopted(found, runtime)
        log.info("instance.adopted", service=instance.service, id=instance.id, paused=found.paused)
        adopt = self._pauses.adopt if found.paused else self._starts.adopt
        self._begin(self._nursery_now(), instance, partial(adopt, instance))

    def _nursery_now(self) -> trio.Nursery:
        if self._nursery is None:
            raise Refused(AllocationRefusal.DRAINING, "the allocator is not running")
        return self._nursery
