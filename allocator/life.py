"""An instance's life: started, ready, in use, drained, put away; one task lives it.

                                 an end by itself: withdrawn at once
                                                ▲
    create ─► start ─► ready ─► published ─► in use ─► draining ─► removed ─► withdrawn

Nothing that has a request in flight is stopped: the gateway counts its own, and whoever dials an
instance directly holds a lease and answers for what is in flight there. Draining is published
first, so that nothing new comes; then leases are asked back; only then the instance ends. Only an
allocator that stops itself puts a bound on that.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio

from allocator.admission import Ledger
from allocator.crashes import CrashGuard
from allocator.errors import (
    AllocatorError,
    Exited,
    ImageMissing,
    NotReady,
    Refused,
    RuntimeDown,
)
from allocator.instance import Flight, Instance, Publisher
from allocator.lifecycle import ENDS, Event, State, apply, published
from allocator.metrics import AllocatorMetrics
from allocator.readiness import Outcome
from allocator.runtime import STOP_GRACE_S, Launch
from overlay.allocation import AllocationRefusal
from overlay.records import Room

ADOPTION_READY_S = 1.0
"""An adopted instance that does not answer within this time was never ready, or is stuck."""

STOP_DRAIN_S = 1.0
STOP_REMOVE_GRACE_S = 1.0
STOP_TOTAL_S = 4.0
"""A stopping allocator gives requests a second to end and its containers a second to go; systemd
and `myxo up` wait 5 s."""

ReadyWait = Callable[[str, str | None, float, Callable[[], Awaitable[None]]], Awaitable[Outcome]]

log = structlog.get_logger()


class Life:
    """Lives the lives of a machine's instances; each `live` is one.

    Args:
        publisher: tells the network.
        ledger: gets back what an instance was promised.
        metrics: counts.
        crashes: remembers failures.
        ready: waits until an instance is ready.
        room_changed: called with what is left after each change.
        not_removed: called with an instance whose runtime was down when it should go.
        proxy_port: where instances find this machine's proxy; may be set at any time.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        metrics: AllocatorMetrics,
        crashes: CrashGuard,
        *,
        ready: ReadyWait,
        room_changed: Callable[[Room], None],
        not_removed: Callable[[Instance], None],
        proxy_port: int,
    ) -> None:
        self.proxy_port = proxy_port
        self._publisher = publisher
        self._ledger = ledger
        self._metrics = metrics
        self._crashes = crashes
        self._ready = ready
        self._room_changed = room_changed
        self._not_removed = not_removed

    async def live(
        self,
        instance: Instance,
        begin: Callable[[], Awaitable[None]],
        flight: Flight | None = None,
    ) -> None:
        """Live an instance's life: `begin` makes it ready, then it serves, then it is put away."""
        try:
            await begin()
            _land(flight)
            await self._serve(instance)
        except AllocatorError as exc:
            self._fail(instance, exc)
            _land(flight, exc)
        finally:
            _land(flight, Refused(AllocationRefusal.DRAINING, "the allocator is stopping"))
            with trio.CancelScope(shield=True):
                await self._put_away(instance)

    async def start(self, instance: Instance, flight: Flight) -> None:
        """Bring a new instance to where it accepts connections.

        Raises:
            AllocatorError: it did not get there.
        """
        launch = Launch(
            id=instance.id,
            service=instance.service,
            revision=instance.revision,
            author=instance.author,
            spec=instance.spec,
            proxy_port=self.proxy_port,
        )
        self._advance(instance, Event.ADMITTED)
        await self._create(instance, launch, flight)
        self._advance(instance, Event.CREATED)
        with flight.phase("start"):
            instance.address = await instance.runtime.start(instance.id)
        with flight.phase("ready"):
            await self._await_ready(instance, instance.spec.ready_timeout_s)
        self._metrics.started(flight.phases)

    async def _create(self, instance: Instance, launch: Launch, flight: Flight) -> None:
        try:
            with flight.phase("create"):
                await instance.runtime.create(launch)
        except ImageMissing:
            if launch.spec.image is None:
                raise
            self._advance(instance, Event.IMAGE_ABSENT)
            with flight.phase("image"):
                await instance.runtime.pull(launch.spec.image)
            self._advance(instance, Event.IMAGE_FETCHED)
            with flight.phase("create"):
                await instance.runtime.create(launch)

    async def resume(self, instance: Instance) -> None:
        """Take an adopted instance back into use if it answers."""
        self._advance(instance, Event.ADOPTED)
        await self._await_ready(instance, ADOPTION_READY_S)

    async def _await_ready(self, instance: Instance, timeout_s: float) -> None:
        exited = partial(instance.runtime.exited, instance.id)
        outcome = await self._ready(instance.address, instance.spec.health, timeout_s, exited)
        match outcome:
            case Outcome.READY:
                instance.last_active = trio.current_time()
                self._advance(instance, Event.ACCEPTS)
                log.info("instance.ready", service=instance.service, id=instance.id)
            case Outcome.EXITED:
                raise await self._how_it_ended(instance, "before it was ready")
            case Outcome.TIMED_OUT:
                end = await instance.runtime.post_mortem(instance.id)
                raise NotReady(_why_not_ready(instance, timeout_s), log=end.log)

    async def _serve(self, instance: Instance) -> None:
        """Return when the instance is drained.

        Raises:
            Exited: it ended by itself.
        """
        exited = False

        async def watch() -> None:
            nonlocal exited
            await instance.runtime.exited(instance.id)
            exited = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await self._until_unwanted(instance)
            await self._drain(instance)
            nursery.cancel_scope.cancel()
        if exited:
            self._withdraw(instance)
            raise await self._how_it_ended(instance, "while it was in use")

    async def _until_unwanted(self, instance: Instance) -> None:
        while not instance.unwanted:
            if instance.load:
                await instance.changed()
                continue
            idle_s = trio.current_time() - instance.last_active
            if idle_s >= instance.spec.idle_stop_s:
                instance.unwanted = "idle"
                return
            with trio.move_on_after(instance.spec.idle_stop_s - idle_s):
                await instance.changed()

    async def _drain(self, instance: Instance) -> None:
        """Let nothing new in, ask for the leases back, and wait for what is in flight."""
        if instance.state is State.READY:
            self._advance(instance, Event.DRAIN)
            log.info("instance.draining", id=instance.id, why=instance.unwanted)
        for holder in list(instance.holders):
            holder.release(instance.id)
        while instance.holders or instance.in_flight:
            await instance.changed()

    async def _put_away(self, instance: Instance) -> None:
        """End and remove an instance, whatever state it is in; it runs shielded and bounded."""
        with trio.move_on_after(STOP_TOTAL_S) as bound:
            drained = instance.state is State.DRAINING and not (instance.holders or instance.load)
            if instance.state in {State.READY, State.DRAINING} and not drained:
                instance.unwanted = instance.unwanted or "the allocator is stopping"
                with trio.move_on_after(STOP_DRAIN_S):
                    await self._drain(instance)
            await self._remove(instance, STOP_GRACE_S if drained else STOP_REMOVE_GRACE_S)
        if bound.cancelled_caught:
            self._not_removed(instance)
        self._withdraw(instance)
        self._end(instance)

    async def _remove(self, instance: Instance, grace_s: float) -> None:
        grace_s = 0 if instance.state is State.FAILED else grace_s
        try:
            await instance.runtime.remove(instance.id, grace_s=grace_s)
        except RuntimeDown as exc:
            log.warning("instance.not_removed", id=instance.id, error=str(exc))
            self._not_removed(instance)

    def _advance(self, instance: Instance, event: Event) -> None:
        """Apply `event` and publish what others need to know of it."""
        before = instance.state
        instance.state = apply(before, event)
        self._metrics.moved(before, None if instance.state in ENDS else instance.state)
        state = published(instance.state)
        if state is None or (state is published(before) and before is not State.REQUESTED):
            return
        instance.record = self._publisher.set_instance(
            instance.id,
            service=instance.service,
            revision=instance.revision,
            state=state,
            address=instance.address,
            concurrency=instance.spec.concurrency,
        )

    def _fail(self, instance: Instance, error: AllocatorError) -> None:
        self._withdraw(instance)
        self._advance(instance, Event.FAIL)
        if not isinstance(error, RuntimeDown):
            self._metrics.crashed()
            self._crashes.failed(instance.key, trio.current_time(), str(error))
        log.warning("instance.failed", service=instance.service, id=instance.id, error=str(error))

    def _withdraw(self, instance: Instance) -> None:
        """Take the instance out of the network's view and its promise out of the ledger."""
        if instance.record is not None:
            instance.record = None
            self._publisher.withdraw_instance(instance.id)
        self._ledger.release(instance.id)
        self._room_changed(self._ledger.room())

    def _end(self, instance: Instance) -> None:
        for holder, in_flight in instance.holders.items():
            self._metrics.in_flight(-in_flight)
            holder.release(instance.id)
        if instance.state not in ENDS:
            drained = instance.state is State.DRAINING
            self._advance(instance, Event.REMOVED if drained else Event.FAIL)
            log.info("instance.stopped", service=instance.service, id=instance.id)

    async def _how_it_ended(self, instance: Instance, when: str) -> Exited:
        end = await instance.runtime.post_mortem(instance.id)
        return Exited(
            f"an instance of {instance.service} ended {when}: {end}",
            exit_code=end.exit_code,
            oom_killed=end.oom_killed,
            log=end.log,
        )


def _land(flight: Flight | None, error: AllocatorError | None = None) -> None:
    if flight is not None:
        flight.land(error)


def _why_not_ready(instance: Instance, timeout_s: float) -> str:
    port = instance.address.rpartition(":")[2]
    wanted = (
        f"accepted no connection on port {port}"
        if instance.spec.health is None
        else f"did not answer {instance.spec.health} on port {port} with 2xx"
    )
    return (
        f"an instance of {instance.service} {wanted} within {timeout_s:g} s; it must listen on "
        "$SERVICE_PORT, and its log may say why it does not"
    )
