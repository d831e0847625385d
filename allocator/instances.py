"""The instances of this machine: started once however many ask, found, used and counted.

    allocate ──► a ready instance with room ────────────► answered at once
        │
        └──────► the flight of this revision, joined or begun ──► answered when it is ready

Each instance has one task, which lives its life (`life.py`). All decisions about shared state are
made between two awaits, so that there are no locks.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from allocator.crashes import CrashGuard, RevisionKey
from allocator.errors import AllocatorError, InstanceGone, LaunchFailed, Refused, RuntimeDown
from allocator.instance import Flight, Holder, Instance, Publisher
from allocator.life import Life, ReadyWait
from allocator.lifecycle import State
from allocator.metrics import AllocatorMetrics
from allocator.readiness import wait_ready
from allocator.runtime import Running, Runtime
from overlay.allocation import AllocationRefusal
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import Room
from overlay.revision import SignedRevision
from overlay.signed import Signed
from overlay.spec import ServiceSpec

ENGINE_RETRY_S = 2.0
"""Between attempts to do what an engine that was down left undone."""

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
        known: returns the newest revision of a name that this machine has heard of.
        elsewhere: returns how many instances of a service other machines have.
        room_changed: called with what is left after each change.
        ready: waits until an instance is ready.
        proxy_port: where instances find this machine's proxy.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        ledger: Ledger,
        policy: Policy,
        publisher: Publisher,
        metrics: AllocatorMetrics,
        *,
        known: Callable[[ServiceName], SignedRevision | None] = lambda _: None,
        elsewhere: Callable[[ServiceName], int] = lambda _: 0,
        room_changed: Callable[[Room], None] = lambda _: None,
        ready: ReadyWait = wait_ready,
        proxy_port: int = 4200,
    ) -> None:
        self._runtimes = runtimes
        self._ledger = ledger
        self._policy = policy
        self._metrics = metrics
        self._known = known
        self._elsewhere = elsewhere
        self._room_changed = room_changed
        self._crashes = CrashGuard()
        self._instances: dict[InstanceId, Instance] = {}
        self._flights: dict[RevisionKey, Flight] = {}
        self._leftovers: dict[InstanceId, Runtime] = {}
        self._leftover = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._life = Life(
            publisher,
            ledger,
            metrics,
            self._crashes,
            ready=ready,
            room_changed=room_changed,
            not_removed=self._keep_leftover,
            proxy_port=proxy_port,
        )

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
            return await self._by_flight(given, spec, request_id)
        except AllocatorError as exc:
            self._metrics.allocated(exc.code.value)
            raise

    async def _by_flight(
        self, given: SignedRevision, spec: ServiceSpec, request_id: str
    ) -> Allocated:
        begun = trio.current_time()
        key = given.revision.name, given.revision.number
        flight = self._flights.get(key)
        joined = flight is not None and not flight.landed.is_set()
        if flight is None or not joined:
            flight = self._take_off(given, spec, request_id)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        if flight.instance.record is None:
            raise LaunchFailed("the instance ended before it could be used")
        self._metrics.allocated("joined" if joined else "ready")
        queue_s = max(0.0, flight.begun - begun)
        return Allocated(flight.instance.record, {"queue": queue_s} | flight.phases)

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
            and i.id not in exclude
            and i.load < i.spec.concurrency
        ]
        return min(usable, key=lambda i: i.load, default=None)

    def _take_off(self, given: SignedRevision, spec: ServiceSpec, request_id: str) -> Flight:
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
        )
        _insist(self._ledger.room_for(given.owner, spec))
        _insist(self._policy.pace(given.owner, now))
        _insist(self._ledger.reserve(instance.id, given.owner, spec))
        self._instances[instance.id] = instance
        self._metrics.moved(None, instance.state)
        self._room_changed(self._ledger.room())
        flight = self._flights[instance.key] = Flight(instance, now)
        log.info(
            "instance.starting", service=instance.service, id=instance.id, request_id=request_id
        )
        nursery.start_soon(self._live, instance, flight)
        return flight

    async def _live(self, instance: Instance, flight: Flight | None) -> None:
        begin = (
            partial(self._life.resume, instance)
            if flight is None
            else partial(self._life.start, instance, flight)
        )
        try:
            await self._life.live(instance, begin, flight)
        except Exception:  # a bug that one instance meets must not end all others
            log.exception("instance.life_failed", service=instance.service, id=instance.id)
        finally:
            del self._instances[instance.id]
            if self._flights.get(instance.key) is flight and flight is not None:
                del self._flights[instance.key]

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

    # use

    @contextmanager
    def use(self, instance: InstanceId) -> Iterator[Instance]:
        """Count a request that goes to `instance` for as long as the block lasts.

        Raises:
            InstanceGone: it is not there, not ready, or draining.
        """
        found = self._usable(instance)
        found.in_flight += 1
        self._metrics.in_flight(1)
        try:
            yield found
        finally:
            found.in_flight -= 1
            self._metrics.in_flight(-1)
            self._rested(found)

    def lease(self, instance: InstanceId, holder: Holder) -> str:
        """Let `holder` dial an instance directly; return its address.

        Raises:
            InstanceGone: it is not there, not ready, or draining.
        """
        found = self._usable(instance)
        found.holders.setdefault(holder, 0)
        found.last_active = trio.current_time()
        return found.address

    def report(self, instance: InstanceId, holder: Holder, in_flight: int, served: int) -> None:
        """Take in what a holder has in flight, and how much it served since it last told."""
        found = self._instances.get(instance)
        if found is None or holder not in found.holders:
            return
        self._metrics.in_flight(in_flight - found.holders[holder])
        found.holders[holder] = in_flight
        if in_flight or served:
            self._rested(found)

    def released(self, instance: InstanceId, holder: Holder) -> None:
        """Take in that a holder has nothing in flight and will not dial any more."""
        found = self._instances.get(instance)
        if found is not None and holder in found.holders:
            self._metrics.in_flight(-found.holders.pop(holder))
            self._rested(found)

    def release_all(self, holder: Holder) -> None:
        """Take in that a holder is gone, and its leases with it."""
        for instance in list(self._instances):
            self.released(instance, holder)

    def _usable(self, instance: InstanceId) -> Instance:
        found = self._instances.get(instance)
        if found is None:
            raise InstanceGone(f"there is no instance {instance[:80]} here")
        if found.state is not State.READY:
            raise InstanceGone(f"the instance {found.id} is {found.state}")
        return found

    def _rested(self, instance: Instance) -> None:
        instance.last_active = trio.current_time()
        if not instance.load:
            instance.notify()

    # ends

    def drain_outdated(self, service: ServiceName, newest: int | None) -> None:
        """Drain the instances of `service` below revision `newest`, or all if there is none."""
        for instance in self._instances.values():
            if instance.service == service and (newest is None or instance.revision < newest):
                instance.unwanted = "the service was changed or deleted"
                instance.notify()

    # view

    def load(self) -> dict[InstanceId, int]:
        """Return the requests in flight by instance."""
        return {i.id: i.load for i in self._instances.values()}

    def services(self) -> set[ServiceName]:
        """Return the services that have instances here."""
        return {i.service for i in self._instances.values()}

    def room(self) -> Room:
        """Return what is left."""
        return self._ledger.room()

    def status(self) -> list[dict[str, Any]]:
        """Return every instance as JSON-ready values."""
        return [
            {
                "id": i.id,
                "service": i.service,
                "revision": i.revision,
                "state": i.state.value,
                "runtime": i.runtime.name,
                "address": i.address,
                "in_flight": i.load,
                "leases": len(i.holders),
                "cpu_millicores": i.spec.cpu_millicores,
                "memory_mib": i.spec.memory_mib,
            }
            for i in self._instances.values()
        ]

    # the whole

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep instances until cancelled, then drain and remove them all within a few seconds.

        `started` when what an earlier run left is adopted or removed.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for runtime in self._runtimes.values():
                if not await self._adopt(runtime):
                    nursery.start_soon(self._adopt_later, runtime)
            nursery.start_soon(self._retry_removals)
            task_status.started()

    async def _adopt(self, runtime: Runtime) -> bool:
        try:
            found = await runtime.adopt()
        except RuntimeDown:
            return False
        for running in found:
            self._adopt_one(running, runtime)
        return True

    async def _adopt_later(self, runtime: Runtime) -> None:
        """Adopt when an engine that was down at the start has come back."""
        adopted = False
        while not adopted:
            await trio.sleep(ENGINE_RETRY_S)
            adopted = await self._adopt(runtime)

    def _adopt_one(self, running: Running, runtime: Runtime) -> None:
        if running.id in self._instances:
            return
        instance = Instance(
            id=running.id,
            service=running.service,
            revision=running.revision,
            author=running.author,
            spec=running.spec,
            runtime=runtime,
            last_active=trio.current_time(),
            address=running.address,
        )
        self._instances[instance.id] = instance
        self._ledger.hold(instance.id, instance.author, instance.spec)
        self._metrics.moved(None, instance.state)
        self._room_changed(self._ledger.room())
        log.info("instance.adopted", service=instance.service, id=instance.id)
        self._nursery_now().start_soon(self._live, instance, None)

    async def _retry_removals(self) -> None:
        """Remove what could not be removed while the engine was down."""
        while True:
            await self._leftover.wait()
            self._leftover = trio.Event()
            for instance, runtime in list(self._leftovers.items()):
                try:
                    await runtime.remove(instance, grace_s=0)
                except RuntimeDown:
                    self._leftover.set()
                else:
                    del self._leftovers[instance]
            await trio.sleep(ENGINE_RETRY_S)

    def _keep_leftover(self, instance: Instance) -> None:
        self._leftovers[instance.id] = instance.runtime
        self._leftover.set()

    def _nursery_now(self) -> trio.Nursery:
        if self._nursery is None:
            raise Refused(AllocationRefusal.DRAINING, "the allocator is not running")
        return self._nursery


def _insist(decision: Decision) -> None:
    if isinstance(decision, Refusal):
        raise Refused(decision.code, decision.text)
