"""An instance's life: started, ready, in use, resting, drained, put away; one task lives it.

                          an end by itself: withdrawn at once
                                           ▲
    create ─► start ─► ready ─► published ─► in use ─► draining ─► removed ─► withdrawn
    (starts.py)                              │    ▲
                             leases returned ▼    │ resumed, one connect
                                            paused (pauses.py)

Nothing that has a request in flight is stopped: the gateway counts its own, and whoever dials an
instance directly holds a lease and answers for what is in flight there. That an instance drains is
published first, so that nothing new comes; then leases are asked back; only then it ends. Only an
allocator that stops itself puts a bound on that, and a service that says that it is preemptible:
its instance is told to end when another one needs the room, and sees itself to what it is at.
"""

from collections.abc import Awaitable, Callable
from math import inf

import structlog
import trio

from allocator.errors import AllocatorError, InstanceGone, LaunchFailed, Refused, RuntimeDown
from allocator.instances.checkups import Checkups
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import DRAINABLE, Event, State
from allocator.instances.pauses import Pauses
from allocator.instances.register import Register
from allocator.instances.resting import Pause, Resume, Stop, Wait, Why, next_step
from allocator.instances.starts import how_it_ended
from allocator.instances.use import Use, returned
from allocator.runtime import STOP_GRACE_S
from overlay.allocation import AllocationRefusal

STOP_DRAIN_S = 1.0
STOP_REMOVE_GRACE_S = 1.0
STOP_TOTAL_S = 3.0
"""A stopping allocator gives requests a second to end and its containers a second to go; `myxo up`
waits 4 s for all that it has to do, systemd 10."""

UNHEALTHY_DRAIN_S = 30.0
"""What an instance that hangs has in flight would never end; what it can still end, it may."""

log = structlog.get_logger()


class Life:
    """Lives the lives of a machine's instances; each `live` is one.

    Args:
        register: is told what happens.
        pauses: puts instances to rest and wakes them.
        use: knows who uses them.
        not_removed: called with an instance whose runtime was down when it should go.
        checkups: looks whether they stay well.
    """

    def __init__(
        self,
        register: Register,
        pauses: Pauses,
        use: Use,
        not_removed: Callable[[Instance], None],
        checkups: Checkups,
    ) -> None:
        self._register = register
        self._pauses = pauses
        self._use = use
        self._not_removed = not_removed
        self._checkups = checkups

    async def live(self, instance: Instance, begin: Callable[[], Awaitable[None]]) -> None:
        """Live an instance's life: `begin` makes it ready, then it serves, then it is put away."""
        end: AllocatorError = LaunchFailed(
            f"the allocator met a fault of its own with {instance.service}; its log has it"
        )
        try:
            with instance.beginning:
                await begin()
            if not instance.beginning.cancelled_caught:
                instance.land()
                await self._serve(instance)
            end = _put_away_because(instance)
        except AllocatorError as exc:
            self._register.failed(instance, exc)
            end = exc
        except BaseException as exc:
            if _is_cancellation(exc):
                end = Refused(AllocationRefusal.DRAINING, "the allocator is stopping")
            raise
        finally:
            instance.land(end)
            with trio.CancelScope(shield=True):
                await self._put_away(instance)

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
            if instance.unwanted == Why.PREEMPTED:
                return
            exited = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(self._checkups.watch, instance)
            try:
                await self._use_and_rest(instance)
                if instance.unwanted == Why.PREEMPTED:
                    await self._preempt(instance)
                unwell = instance.unwanted == Why.UNHEALTHY
                with trio.move_on_after(UNHEALTHY_DRAIN_S if unwell else inf):
                    await self._drain(instance)
            except AllocatorError as exc:  # raised outside the nursery, which would wrap it
                failure = exc
            nursery.cancel_scope.cancel()
        if exited:
            self._register.withdraw(instance)
            raise await how_it_ended(instance, "while it was in use")
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
                    await self._pauses.pause(instance, why)
                case Resume():
                    await self._pauses.resume(instance)
                case Wait(until=until):
                    with trio.move_on_at(until):
                        await instance.changed()

    async def _drain(self, instance: Instance) -> None:
        """Let nothing new in, ask for the leases back, and wait for what is in flight."""
        if instance.state in DRAINABLE:
            self._register.advance(instance, Event.DRAIN)
            log.info("instance.draining", id=instance.id, why=instance.unwanted)
        await returned(instance)

    async def _preempt(self, instance: Instance) -> None:
        """Let nothing new in, and have the instance end what is under way by itself."""
        with trio.move_on_after(0):
            await self._drain(instance)
        await self._remove(instance, instance.spec.preempt_grace_s or 0.0)
        self._use.ended(instance)

    async def _put_away(self, instance: Instance) -> None:
        """End and remove an instance, whatever state it is in; it runs shielded and bounded."""
        with trio.move_on_after(STOP_TOTAL_S) as bound:
            drained = instance.state is State.DRAINING and not (instance.holders or instance.load)
            if instance.state in DRAINABLE | {State.DRAINING} and not drained:
                instance.unwanted = instance.unwanted or Why.ALLOCATOR_STOPS
                with trio.move_on_after(STOP_DRAIN_S):
                    await self._drain(instance)
            await self._use.part(instance)
            await self._remove(instance, STOP_GRACE_S if drained else STOP_REMOVE_GRACE_S)
        if bound.cancelled_caught:
            self._not_removed(instance)
        self._register.withdraw(instance)
        self._use.ended(instance)
        self._register.ended(instance)

    async def _remove(self, instance: Instance, grace_s: float) -> None:
        grace_s = 0 if instance.state is State.FAILED else grace_s
        try:
            await instance.runtime.remove(instance.id, grace_s=grace_s)
        except RuntimeDown as exc:
            log.warning("instance.not_removed", id=instance.id, error=str(exc))
            self._not_removed(instance)


def _is_cancellation(exc: BaseException) -> bool:
    """Whether it is nothing but a cancellation, alone or as a nursery wraps it."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def _put_away_because(instance: Instance) -> AllocatorError:
    """Return what to tell whoever waits for an instance that is put away on purpose."""
    if instance.unwanted == Why.OUTDATED:
        return Refused(
            AllocationRefusal.BAD_REVISION,
            f"revision {instance.revision} of {instance.service} is not the newest any more",
        )
    return InstanceGone(f"the instance {instance.id} is being put away: {instance.unwanted}")
