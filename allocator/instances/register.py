"""Where it is entered what happens to an instance: its state, for the network, in the books."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from allocator.errors import AllocatorError, Refused, RuntimeDown
from allocator.instances.crashes import CrashGuard
from allocator.instances.instance import Instance, Publisher
from allocator.instances.lifecycle import ENDS, Event, State, apply, published
from allocator.instances.resting import Kept, Why
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger
from overlay.names import InstanceId, ServiceName
from overlay.records import MAX_RESUME_S, InstanceState, Room
from overlay.spec import ServiceSpec

RESUME_ALPHA = 0.2
TYPICAL_RESUME_S = 0.02
"""Until the first one was measured; 9 to 19 ms with Docker."""

RECENTLY_GONE = 20
"""Instances that were put away, for people who wonder where they are."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gone:
    """An instance that is not here any more: which, since when on trio's clock, and why."""

    instance: InstanceId
    service: ServiceName
    at: float
    why: str


class Register:
    """Enters what happens to a machine's instances.

    Args:
        publisher: tells the network.
        ledger: what is promised to whom.
        metrics: counts.
        crashes: remembers failures.
        room_changed: called with what is left after each change.

    Attributes:
        resume_s: what waking an instance takes here, smoothed.
        gone: what went lately.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        metrics: AllocatorMetrics,
        crashes: CrashGuard,
        room_changed: Callable[[Room], None],
    ) -> None:
        self.resume_s = TYPICAL_RESUME_S
        self.gone: deque[Gone] = deque(maxlen=RECENTLY_GONE)
        self._publisher = publisher
        self._ledger = ledger
        self._metrics = metrics
        self._crashes = crashes
        self._room_changed = room_changed

    def advance(self, instance: Instance, event: Event) -> None:
        """Apply `event` and publish what others need to know of it."""
        before = instance.state
        instance.state = apply(before, event)
        self._metrics.moved(before, None if instance.state in ENDS else instance.state)
        state = published(instance.state)
        if state not in {None, InstanceState.STARTING, published(before)}:
            self.publish(instance, state)

    def publish(self, instance: Instance, state: InstanceState) -> None:
        """Tell the network of an instance."""
        instance.record = self._publisher.set_instance(
            instance.id,
            service=instance.service,
            revision=instance.revision,
            state=state,
            address=instance.address,
            concurrency=instance.spec.concurrency,
            resume_s=min(MAX_RESUME_S, self.resume_s) if state is InstanceState.PAUSED else 0.0,
            healthy=instance.healthy,
        )

    def adjust(self, instance: Instance, spec: ServiceSpec) -> None:
        """Enter what a service says now of the use of its instances."""
        before, instance.spec = instance.spec, spec
        state = published(instance.state)
        if instance.record is not None and state and before.concurrency != spec.concurrency:
            self.publish(instance, state)
        log.info("instance.adjusted", service=instance.service, id=instance.id)

    def rests(self, instance: Instance) -> None:
        """Give back what a paused instance was promised, less the memory that it holds."""
        kept = instance.kept is not Kept.NOT
        self._ledger.rest(instance.id, instance.memory_mib, reclaimable=not kept)
        self._room_changed(self._ledger.room())

    def started(self, instance: Instance) -> None:
        """Enter that a new instance got ready, and where the time went."""
        phases = {} if instance.flight is None else instance.flight.phases
        instance.started_at = trio.current_time()
        instance.start_s = sum(phases.get(p, 0.0) for p in ("create", "start", "ready"))
        self._metrics.started(phases)

    def paused(self, instance: Instance, why: str) -> None:
        """Enter that an instance rests from now on."""
        instance.paused_at = trio.current_time()
        self.advance(instance, Event.FROZEN)
        self._metrics.put_away("paused", why)
        log.info("instance.paused", id=instance.id, why=why, memory_mib=instance.memory_mib)

    def woken(self, instance: Instance, took_s: float) -> None:
        """Enter that a paused instance is ready again."""
        phases = {} if instance.flight is None else instance.flight.phases
        self.resume_s += RESUME_ALPHA * (took_s - self.resume_s)
        self._metrics.started(phases)

    def failed(self, instance: Instance, error: AllocatorError) -> None:
        """Enter that an instance did not start, or ended by itself."""
        instance.unwanted = str(error)
        self.withdraw(instance)
        self.advance(instance, Event.FAIL)
        if isinstance(error, Refused):  # it had no turn; a flood of those must not fill the log
            log.debug("instance.not_started", service=instance.service, error=str(error))
            return
        if not isinstance(error, RuntimeDown):
            self._metrics.crashed()
            self._crashes.failed(instance.key, trio.current_time(), str(error), error.log)
        log.warning("instance.failed", service=instance.service, id=instance.id, error=str(error))

    def withdraw(self, instance: Instance) -> None:
        """Take the instance out of the network's view and its promise out of the ledger."""
        if instance.record is not None:
            instance.record = None
            self._publisher.withdraw_instance(instance.id)
        self._ledger.release(instance.id)
        self._room_changed(self._ledger.room())

    def ended(self, instance: Instance) -> None:
        """Enter that an instance is gone."""
        why = instance.unwanted or Why.ALLOCATOR_STOPS
        self.gone.append(Gone(instance.id, instance.service, trio.current_time(), why))
        if instance.state not in ENDS:
            drained = instance.state is State.DRAINING
            self.advance(instance, Event.REMOVED if drained else Event.FAIL)
            self._metrics.put_away("stopped", why)
            log.info("instance.stopped", service=instance.service, id=instance.id)
