"""The instances of this machine: started once however many ask, woken, found, and put away.

    allocate ──► a ready instance with room ────────────► answered at once
        │
        └──────► the flight of this revision, joined or begun ──► answered when it is ready:
                 it wakes a paused instance if there is one, else it starts one

Each instance has one task, which lives its life (`life.py`). All decisions about shared state are
made between two awaits, so that there are no locks.
"""

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from typing import Any

import structlog
import trio

from allocator.admission import (
    Decision,
    Ledger,
    Policy,
    Refusal,
    check_platform,
    check_revision,
    check_runnable,
)
from allocator.adoption import adopt_all
from allocator.crashes import CrashGuard, CrashLoop, RevisionKey
from allocator.demand import Demand
from allocator.errors import (
    AllocatorError,
    Exited,
    InstanceGone,
    LaunchFailed,
    NotReady,
    Refused,
    RuntimeDown,
)
from allocator.instance import Flight, Instance, Publisher
from allocator.leftovers import Leftovers
from allocator.life import Life, ReadyWait
from allocator.lifecycle import State
from allocator.metrics import AllocatorMetrics
from allocator.pool import Pool
from allocator.readiness import wait_ready
from allocator.resting import Kept, Why
from allocator.runtime import Running, Runtime
from allocator.standby import Bounds
from allocator.standing import Standing, standing
from allocator.turns import PARALLEL_STARTS_PER_CORE, Turns
from allocator.use import Use
from overlay.allocation import AllocationRefusal
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.records import Room
from overlay.revision import SignedRevision
from overlay.signed import Signed
from overlay.spec import ServiceSpec

UNBOUNDED = Bounds(memory_mib=2**31, instances=2**31)

_USABLE = frozenset({State.READY, State.PAUSING, State.PAUSED, State.RESUMING})

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
        proxy_port: where instances find this machine's proxy.
        parallel_starts: how many starts may be under way at once; the others wait their turn.
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
        proxy_port: int = 4200,
        parallel_starts: int = PARALLEL_STARTS_PER_CORE,
    ) -> None:
        self._runtimes = runtimes
        self._ledger = ledger
        self._policy = policy
        self._metrics = metrics
        self._known = known
        self._elsewhere = elsewhere
        self._room_changed = room_changed
        self._pauses = standby.instances > 0
        self._crashes = CrashGuard()
        self._instances: dict[InstanceId, Instance] = {}
        self._flights: dict[RevisionKey, Flight] = {}
        self._leftovers = Leftovers()
        self._nursery: trio.Nursery | None = None
        self.use = Use(self._instances, metrics)
        self._turns = Turns(parallel_starts)
        self._life = Life(
            publisher,
            ledger,
            metrics,
            self._crashes,
            self.use,
            self._turns,
            ready=ready,
            room_changed=room_changed,
            rests=self._hold_bounds,
            not_removed=self._leftovers.keep,
            proxy_port=proxy_port,
        )
        self._demand = Demand(self._instances, self.use)
        self._pool = Pool(self._instances, ledger, self.use, standby, lambda: self._life.resume_s)
        metrics.starts_waiting(lambda: self._turns.waiting)
        metrics.standby(ledger.resting_mib)
        metrics.crash_loops(lambda: sum(loop.wait_s > 0 for loop in self._loops()))

    def set_proxy_port(self, port: int) -> None:
        """Tell instances that are started from now on where this machine's proxy is."""
        self._life.proxy_port = port

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
            spec = self._checked(given, caller)
            found = self._with_room(given, exclude)
            if found is not None and found.record is not None:
                self._metrics.allocated("found")
                return Allocated(found.record, {})
            return await self._by_flight(given, spec, exclude, request_id, caller)
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
                await self._landed(self._wake(found))
        except AllocatorError as exc:
            raise InstanceGone(f"the instance {found.id} cannot be woken: {exc}") from exc

    async def _by_flight(
        self,
        given: SignedRevision,
        spec: ServiceSpec,
        exclude: Collection[str],
        request_id: str,
        caller: PeerId | None,
    ) -> Allocated:
        key = given.revision.name, given.revision.number
        flight = self._flights.get(key)
        joined = flight is not None and not flight.landed.is_set()
        if flight is None or not joined:
            resting = self._resting(key, exclude)
            flight = (
                self._take_off(given, spec, request_id, caller)
                if resting is None
                else self._wake(resting)
            )
        try:
            record = await self._landed(flight)
        except (Exited, LaunchFailed, NotReady):
            if not flight.wakes:
                raise
            excluded = {*exclude, flight.instance.id}
            return await self._by_flight(given, spec, excluded, request_id, caller)
        self._metrics.allocated("joined" if joined else "woken" if flight.wakes else "ready")
        return Allocated(record, {"queue": 0.0} | flight.phases)

    async def _landed(self, flight: Flight) -> Signed:
        """Wait for a flight's end; return the instance's record.

        Raises:
            AllocatorError: it is not ready.
        """
        flight.waiting += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._turns.withdraw(flight.instance.id)
        if flight.error is not None:
            raise flight.error
        if flight.instance.record is None:
            raise LaunchFailed("the instance ended before it could be used")
        return flight.instance.record

    def _checked(self, given: SignedRevision, caller: PeerId | None) -> ServiceSpec:
        revision = given.revision
        _insist(check_revision(given, self._known(revision.name)))
        spec = revision.spec
        if spec is None:
            raise Refused(AllocationRefusal.BAD_REVISION, f"{revision.name} is deleted")
        _insist(check_runnable(spec))
        _insist(self._policy.decide(given.owner, spec, caller))
        return spec

    def _with_room(self, given: SignedRevision, exclude: Collection[str]) -> Instance | None:
        key = given.revision.name, given.revision.number
        usable = [
            i
            for i in self._instances.values()
            if i.key == key
            and i.state is State.READY
            and not i.unwanted
            and i.id not in exclude
            and i.load < i.spec.concurrency
        ]
        return min(usable, key=lambda i: i.load, default=None)

    def _resting(self, key: RevisionKey, exclude: Collection[str]) -> Instance | None:
        """Return the instance to wake: one that is not frozen yet, else the one last in use."""
        found = [
            i
            for i in self._instances.values()
            if i.key == key
            and i.state in {State.PAUSING, State.PAUSED}
            and not i.unwanted
            and i.id not in exclude
        ]
        return max(found, key=lambda i: (i.state is State.PAUSING, i.last_active), default=None)

    def _wake(self, instance: Instance) -> Flight:
        """Begin to wake a resting instance, or join in; its promise is entered at once.

        Raises:
            Refused: there is no room for it to run.
            InstanceGone: it is not resting.
        """
        if instance.wanted and instance.flight is not None:
            return instance.flight
        if instance.state not in {State.PAUSING, State.PAUSED} or instance.unwanted:
            raise InstanceGone(f"the instance {instance.id} is {instance.state}")
        _insist(self._ledger.wake(instance.id, instance.author, instance.spec))
        self._demand.exceeds(instance)
        self._pool.make_room()
        self._room_changed(self._ledger.room())
        flight = Flight(instance, trio.current_time(), wakes=True)
        instance.flight = self._flights[instance.key] = flight
        instance.notify()
        return flight

    def _take_off(
        self,
        given: SignedRevision,
        spec: ServiceSpec,
        request_id: str,
        caller: PeerId | None,
    ) -> Flight:
        """Admit a new instance, or raise; begin its life."""
        nursery = self._nursery_now()
        revision = given.revision
        runtime = self._runtime(spec)
        _insist(check_platform(spec, runtime.capacity()))
        now = trio.current_time()
        if (reason := self._crashes.refusal((revision.name, revision.number), now)) is not None:
            raise Refused(AllocationRefusal.FAILED, reason)
        self._check_max_instances(revision.name, spec)
        instance = Instance(
            id=InstanceId(secrets.token_hex(6)),
            service=revision.name,
            revision=revision.number,
            author=given.owner,
            spec=spec,
            runtime=runtime,
            last_active=now,
            pausable_at=self._pausable_at(),
        )
        _insist(self._ledger.room_for(given.owner, spec))
        _insist(self._policy.pace(given.owner, now))
        _insist(self._ledger.reserve(instance.id, given.owner, spec))
        self._demand.exceeds(instance)
        self._pool.make_room()
        flight = Flight(instance, now, caller=caller)
        instance.flight = self._flights[instance.key] = flight
        log.info(
            "instance.starting", service=instance.service, id=instance.id, request_id=request_id
        )
        self._begin(nursery, instance, partial(self._life.start, instance, flight))
        nursery.start_soon(self._life.announce, instance)
        return flight

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
            if self._flights.get(instance.key) is instance.flight:
                self._flights.pop(instance.key, None)

    def _runtime(self, spec: ServiceSpec) -> Runtime:
        runtime = self._runtimes.get(spec.runtime)
        if runtime is None:
            raise Refused(
                AllocationRefusal.RUNTIME_MISSING, f"there is no {spec.runtime} runtime here"
            )
        if not runtime.health().usable:
            raise RuntimeDown(runtime.health().problem)
        return runtime

    def _check_max_instances(self, service: ServiceName, spec: ServiceSpec) -> None:
        if not spec.max_instances:
            return
        here = sum(
            i.service == service and i.state is not State.DRAINING for i in self._instances.values()
        )
        if here + self._elsewhere(service) >= spec.max_instances:
            raise Refused(
                AllocationRefusal.NO_ROOM,
                f"{service} has its {spec.max_instances} instances already (max_instances)",
            )

    # what the network keeps

    def keep(self, service: ServiceName, revision: int, count: int, how: Kept) -> None:
        """Keep `count` instances of a revision as `how` says, and no others of the service."""
        here = [i for i in self._all() if i.service == service and not i.unwanted]
        kept = sorted(
            (i for i in here if i.revision == revision and i.state in _USABLE),
            key=lambda i: (i.kept is Kept.NOT, (i.state is State.READY) is (how is Kept.PAUSED)),
        )[:count]
        for instance in here:
            self._set_kept(instance, how if instance in kept else Kept.NOT)

    def _set_kept(self, instance: Instance, how: Kept) -> None:
        if instance.kept is not how:
            instance.kept = how
            if instance.state is State.PAUSED and not instance.wanted:
                self._ledger.rest(instance.id, instance.memory_mib, reclaimable=how is Kept.NOT)
                self._room_changed(self._ledger.room())
            instance.notify()
        if how is Kept.RUNNING and instance.state is State.PAUSED:
            with suppress(AllocatorError):  # tried again at the next look
                self._wake(instance)

    # ends

    def drain_outdated(self, service: ServiceName, newest: int | None) -> None:
        """Drain the instances of `service` below revision `newest`, or all if there is none."""
        self._crashes.forget(service, newest)
        for instance in self._instances.values():
            if instance.service == service and (newest is None or instance.revision < newest):
                instance.unwanted = Why.OUTDATED
                instance.notify()

    # view

    def services(self) -> set[ServiceName]:
        """Return the services that have instances here."""
        return {i.service for i in self._instances.values()}

    def standing(self, service: ServiceName, revision: int) -> Standing:
        """Return what a start of a service would meet here."""
        return standing(self._instances.values(), service, revision, self._life.resume_s)

    def room(self) -> Room:
        """Return what is left."""
        return self._ledger.room()

    def images(self) -> set[Digest]:
        """Return the images that instances run from, or are about to."""
        return {i.spec.image.config_digest for i in self._all() if i.spec.image is not None}

    def status(self) -> dict[str, Any]:
        """Return what is here, what rests, what failed and what went, as JSON-ready values."""
        now = trio.current_time()
        return {
            "own_instances": [_shown(i, now) for i in self._all()],
            "standby": self._pool.status(),
            "crash_loops": [asdict(loop) for loop in self._loops()],
            "put_away": [
                {
                    "id": g.instance,
                    "service": g.service,
                    "ago_s": round(now - g.at, 1),
                    "why": g.why,
                }
                for g in self._life.gone
            ],
        }

    def _loops(self) -> list[CrashLoop]:
        return self._crashes.loops(trio.current_time())

    def _all(self) -> Iterable[Instance]:
        return self._instances.values()

    # the whole

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep instances until cancelled, then drain and remove them all within a few seconds.

        `started` when what an earlier run left is adopted or removed.
        """
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

    def _adopt(self, found: Running, runtime: Runtime) -> None:
        if found.id in self._instances:
            return
        instance = Instance(
            id=found.id,
            service=found.service,
            revision=found.revision,
            author=found.author,
            spec=found.spec,
            runtime=runtime,
            last_active=trio.current_time(),
            address=found.address,
            paused_at=trio.current_time(),
            pausable_at=self._pausable_at(),
        )
        self._ledger.hold(instance.id, instance.author, instance.spec)
        log.info("instance.adopted", service=instance.service, id=instance.id, paused=found.paused)
        adopt = self._life.adopt_paused if found.paused else self._life.adopt
        self._begin(self._nursery_now(), instance, partial(adopt, instance))

    def _hold_bounds(self) -> None:
        self._pool.hold_bounds()

    def _pausable_at(self) -> float:
        return 0.0 if self._pauses else inf

    def _nursery_now(self) -> trio.Nursery:
        if self._nursery is None:
            raise Refused(AllocationRefusal.DRAINING, "the allocator is not running")
        return self._nursery


def _insist(decision: Decision) -> None:
    if isinstance(decision, Refusal):
        raise Refused(decision.code, decision.text)


def _shown(instance: Instance, now: float) -> dict[str, Any]:
    return {
        "id": instance.id,
        "service": instance.service,
        "revision": instance.revision,
        "state": instance.state.value,
        "runtime": instance.runtime.name,
        "address": instance.address,
        "in_flight": instance.load,
        "leases": len(instance.holders),
        "idle_s": 0.0 if instance.load else round(now - instance.last_active, 1),
        "kept": instance.kept.value,
        "cpu_millicores": instance.spec.cpu_millicores,
        "memory_mib": instance.spec.memory_mib,
        "used_memory_mib": instance.memory_mib or None,
    }
