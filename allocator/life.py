"""An instance's life: started, ready, in use, resting, drained, put away; one task lives it.

                          an end by itself: withdrawn at once
                                           ▲
    create ─► start ─► ready ─► published ─► in use ─► draining ─► removed ─► withdrawn
                                             │    ▲
                             leases returned ▼    │ resumed, one connect
                                            paused

Nothing that has a request in flight is paused or stopped: the gateway counts its own, and whoever
dials an instance directly holds a lease and answers for what is in flight there. That an instance
rests or drains is published first, so that nothing new comes; then leases are asked back; only then
it is frozen or ends. Only an allocator that stops itself puts a bound on that.

Whoever waits for a paused instance waits for the engine to thaw it and for one connect, so nothing
else is done in that time.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

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
    Unmeasured,
    Unpausable,
)
from allocator.instance import Flight, Instance, Publisher
from allocator.lifecycle import ENDS, Event, State, apply, published
from allocator.metrics import AllocatorMetrics
from allocator.readiness import Outcome
from allocator.resting import Kept, Pause, Resume, Stop, Wait, Why, next_step
from allocator.runtime import STOP_GRACE_S, Launch
from allocator.turns import Turns
from allocator.use import Use
from overlay.allocation import AllocationRefusal
from overlay.names import InstanceId, ServiceName
from overlay.records import MAX_RESUME_S, InstanceState, Room

ANNOUNCE_AFTER_S = 0.15
"""A start in a network sandbox takes about half of it on an idle machine. Whoever asks another
machine within this time does not know of the start here, and may begin one there."""

ADOPTION_READY_S = 1.0
"""An adopted instance that does not answer within this time was never ready, or is stuck."""

RESUME_READY_S = 2.0
"""A resumed instance accepted connections all the time; one that does not is stuck."""

PAUSE_RETRY_S = 10.0
"""After an engine that was down when an instance should rest."""

RESUME_ALPHA = 0.2
TYPICAL_RESUME_S = 0.02
"""Until the first one was measured; 9 to 19 ms with Docker."""

RECENTLY_GONE = 20
"""Instances that were put away, for people who wonder where they are."""

STOP_DRAIN_S = 1.0
STOP_REMOVE_GRACE_S = 1.0
STOP_TOTAL_S = 4.0
"""A stopping allocator gives requests a second to end and its containers a second to go; systemd
and `myxo up` wait 5 s."""

ReadyWait = Callable[[str, str | None, float, Callable[[], Awaitable[None]]], Awaitable[Outcome]]

_DRAINABLE = frozenset({State.READY, State.PAUSING, State.PAUSED})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gone:
    """An instance that is not here any more: which, since when on trio's clock, and why."""

    instance: InstanceId
    service: ServiceName
    at: float
    why: str


class Life:
    """Lives the lives of a machine's instances; each `live` is one.

    Args:
        publisher: tells the network.
        ledger: gets back what an instance was promised.
        metrics: counts.
        crashes: remembers failures.
        use: counts requests.
        turns: lets so many start at once.
        ready: waits until an instance is ready.
        room_changed: called with what is left after each change.
        rests: called when one more instance is paused.
        not_removed: called with an instance whose runtime was down when it should go.
        proxy_port: where instances find this machine's proxy; may be set at any time.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        metrics: AllocatorMetrics,
        crashes: CrashGuard,
        use: Use,
        turns: Turns,
        *,
        ready: ReadyWait,
        room_changed: Callable[[Room], None],
        rests: Callable[[], None],
        not_removed: Callable[[Instance], None],
        proxy_port: int,
    ) -> None:
        self.proxy_port = proxy_port
        self.resume_s = TYPICAL_RESUME_S
        self.gone: deque[Gone] = deque(maxlen=RECENTLY_GONE)
        self._publisher = publisher
        self._ledger = ledger
        self._metrics = metrics
        self._crashes = crashes
        self._use = use
        self._turns = turns
        self._ready = ready
        self._room_changed = room_changed
        self._rests = rests
        self._not_removed = not_removed

    async def live(self, instance: Instance, begin: Callable[[], Awaitable[None]]) -> None:
        """Live an instance's life: `begin` makes it ready, then it serves, then it is put away."""
        try:
            await begin()
            _land(instance)
            await self._serve(instance)
        except AllocatorError as exc:
            self._fail(instance, exc)
            _land(instance, exc)
        finally:
            _land(instance, Refused(AllocationRefusal.DRAINING, "the allocator is stopping"))
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
        try:
            await self._launch(instance, launch, flight)
        except ImageMissing:
            if launch.spec.image is None:
                raise
            self._advance(instance, Event.IMAGE_ABSENT)
            with flight.phase("image"):
                await instance.runtime.pull(launch)
            self._advance(instance, Event.IMAGE_FETCHED)
            await self._launch(instance, launch, flight)
        with flight.phase("ready"):
            await self._await_ready(instance, instance.spec.health, instance.spec.ready_timeout_s)
        instance.started_at = trio.current_time()
        instance.start_s = sum(flight.phases.get(p, 0.0) for p in ("create", "start", "ready"))
        self._metrics.started(flight.phases)

    async def announce(self, instance: Instance) -> None:
        """Publish a start that takes longer than most, for others to join.

        Most are ready before. One record of them then makes every peer of the network work once,
        and not in the moment in which this machine's engine needs the processor.
        """
        await trio.sleep(ANNOUNCE_AFTER_S)
        if instance.record is None and published(instance.state) is InstanceState.STARTING:
            self._publish(instance, InstanceState.STARTING)

    async def _launch(self, instance: Instance, launch: Launch, flight: Flight) -> None:
        """Create and start, when it is this start's turn; pulls and readiness take nobody's turn.

        Raises:
            AllocatorError: it is not started.
        """
        begun = trio.current_time()
        async with self._turns.turn(instance.id, instance.author, flight.caller):
            flight.add("queue", trio.current_time() - begun)
            with flight.phase("create"):
                await instance.runtime.create(launch)
            self._advance(instance, Event.CREATED)
            with flight.phase("start"):
                instance.address = await instance.runtime.start(instance.id)

    async def adopt(self, instance: Instance) -> None:
        """Take an instance of an earlier run back into use if it answers."""
        self._advance(instance, Event.ADOPTED)
        await self._await_ready(instance, instance.spec.health, ADOPTION_READY_S)

    async def adopt_paused(self, instance: Instance) -> None:
        """Take a paused instance of an earlier run back; it stays paused."""
        self._advance(instance, Event.ADOPTED_PAUSED)
        self._count_resting(instance)
        with suppress(RuntimeDown, Unmeasured):
            instance.memory_mib = await instance.runtime.memory_mib(instance.id)
        woken = instance.wanted or instance.unwanted  # meanwhile; its promise is another one then
        if instance.state is State.PAUSED and not woken:
            self._count_resting(instance)

    async def _await_ready(self, instance: Instance, health: str | None, timeout_s: float) -> None:
        exited = partial(instance.runtime.exited, instance.id)
        outcome = await self._ready(instance.address, health, timeout_s, exited)
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
            AllocatorError: it did not come back from its pause.
        """
        exited = False
        failure: AllocatorError | None = None

        async def watch() -> None:
            nonlocal exited
            await instance.runtime.exited(instance.id)
            exited = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await self._use_and_rest(instance)
                await self._drain(instance)
            except AllocatorError as exc:  # raised outside the nursery, which would wrap it
                failure = exc
            nursery.cancel_scope.cancel()
        if exited:
            self._withdraw(instance)
            raise await self._how_it_ended(instance, "while it was in use")
        if failure is not None:
            raise failure

    async def _use_and_rest(self, instance: Instance) -> None:
        """Return when the instance must go; it is ready and paused by turns until then."""
        while True:
            match next_step(instance.standing, trio.current_time()):
                case Stop(why=why):
                    instance.unwanted = why
                    return
                case Pause(why=why):
                    await self._pause(instance, why)
                case Resume():
                    await self._resume(instance)
                case Wait(until=until):
                    with trio.move_on_at(until):
                        await instance.changed()

    async def _pause(self, instance: Instance, why: str) -> None:
        """Freeze the instance once nobody can have a request there, unless it is asked for again.

        It is measured before, while it still serves.
        """
        try:
            instance.memory_mib = await instance.runtime.memory_mib(instance.id)
        except Unmeasured as exc:
            log.info("instance.unmeasured", id=instance.id, error=str(exc))
            instance.memory_mib = instance.memory_mib or instance.spec.memory_mib
        except RuntimeDown:
            instance.pausable_at = trio.current_time() + PAUSE_RETRY_S
            return
        if not isinstance(next_step(instance.standing, trio.current_time()), Pause):
            return
        self._advance(instance, Event.PAUSE)
        await self._returned(instance)
        instance.surplus = False
        if instance.wanted:
            self._use_on(instance)
        elif not instance.unwanted:
            await self._freeze(instance, why)

    def _use_on(self, instance: Instance) -> None:
        """Take back that the instance should rest."""
        instance.last_active = trio.current_time()
        self._advance(instance, Event.WANTED)
        _land(instance)

    async def _freeze(self, instance: Instance, why: str) -> None:
        try:
            await instance.runtime.pause(instance.id)
        except Unpausable as exc:
            log.warning("instance.not_paused", id=instance.id, error=str(exc))
            instance.pausable_at = inf
            self._use_on(instance)
            return
        except RuntimeDown as exc:  # it may be paused, and resuming one that is not does no harm
            log.warning("instance.pause_unsure", id=instance.id, error=str(exc))
        instance.paused_at = trio.current_time()
        self._advance(instance, Event.FROZEN)
        self._metrics.put_away("paused", why)
        log.info("instance.paused", id=instance.id, why=why, memory_mib=instance.memory_mib)
        if not instance.wanted:
            self._count_resting(instance)
            self._rests()

    def _count_resting(self, instance: Instance) -> None:
        kept = instance.kept is not Kept.NOT
        self._ledger.rest(instance.id, instance.memory_mib, reclaimable=not kept)
        self._room_changed(self._ledger.room())

    async def _resume(self, instance: Instance) -> None:
        """Thaw the instance for whoever waits; its promise is in the ledger again already."""
        flight = instance.flight
        if flight is None:
            return
        begun = trio.current_time()
        self._advance(instance, Event.RESUME)
        try:
            with flight.phase("resume"):
                await instance.runtime.resume(instance.id)
        except RuntimeDown as exc:
            self._advance(instance, Event.FROZEN)
            self._count_resting(instance)
            flight.land(exc)
            return
        with flight.phase("ready"):
            await self._await_ready(instance, None, RESUME_READY_S)
        flight.land()
        self.resume_s += RESUME_ALPHA * (trio.current_time() - begun - self.resume_s)
        self._metrics.started(flight.phases)

    async def _returned(self, instance: Instance) -> None:
        """Ask for the leases back and wait for what is in flight, or until it is asked for."""
        for holder in list(instance.holders):
            holder.release(instance.id)
        while instance.holders or instance.in_flight:
            if instance.state is State.PAUSING and (instance.wanted or instance.unwanted):
                return
            await instance.changed()

    async def _drain(self, instance: Instance) -> None:
        """Let nothing new in, ask for the leases back, and wait for what is in flight."""
        if instance.state in _DRAINABLE:
            self._advance(instance, Event.DRAIN)
            log.info("instance.draining", id=instance.id, why=instance.unwanted)
        await self._returned(instance)

    async def _put_away(self, instance: Instance) -> None:
        """End and remove an instance, whatever state it is in; it runs shielded and bounded."""
        with trio.move_on_after(STOP_TOTAL_S) as bound:
            drained = instance.state is State.DRAINING and not (instance.holders or instance.load)
            if instance.state in _DRAINABLE | {State.DRAINING} and not drained:
                instance.unwanted = instance.unwanted or Why.ALLOCATOR_STOPS
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
        if state not in {None, InstanceState.STARTING, published(before)}:
            self._publish(instance, state)

    def _publish(self, instance: Instance, state: InstanceState) -> None:
        instance.record = self._publisher.set_instance(
            instance.id,
            service=instance.service,
            revision=instance.revision,
            state=state,
            address=instance.address,
            concurrency=instance.spec.concurrency,
            resume_s=min(MAX_RESUME_S, self.resume_s) if state is InstanceState.PAUSED else 0.0,
        )

    def _fail(self, instance: Instance, error: AllocatorError) -> None:
        instance.unwanted = str(error)
        self._withdraw(instance)
        self._advance(instance, Event.FAIL)
        if isinstance(error, Refused):  # it had no turn; a flood of those must not fill the log
            log.debug("instance.not_started", service=instance.service, error=str(error))
            return
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
        for holder in list(instance.holders):
            holder.release(instance.id)
            self._use.released(instance.id, holder)
        why = instance.unwanted or Why.ALLOCATOR_STOPS
        self.gone.append(Gone(instance.id, instance.service, trio.current_time(), why))
        if instance.state not in ENDS:
            drained = instance.state is State.DRAINING
            self._advance(instance, Event.REMOVED if drained else Event.FAIL)
            self._metrics.put_away("stopped", why)
            log.info("instance.stopped", service=instance.service, id=instance.id)

    async def _how_it_ended(self, instance: Instance, when: str) -> AllocatorError:
        end = await instance.runtime.post_mortem(instance.id)
        text = f"an instance of {instance.service} ended {when}: {end}"
        if end.runtime_stopped:
            return RuntimeDown(text)
        return Exited(
            text,
            exit_code=end.exit_code,
            oom_killed=end.oom_killed,
            log=end.log,
        )


def _land(instance: Instance, error: AllocatorError | None = None) -> None:
    """Tell whoever waits for the instance how it went."""
    if instance.flight is not None:
        instance.flight.land(error)


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
