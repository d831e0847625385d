"""How an instance is put to rest and woken.

Nothing that has a request in flight is paused: that it rests is published first, so that nothing
new comes; then leases are asked back; only then it is frozen. Whoever waits for a paused instance
waits for the engine to thaw it and for one connect, so nothing else is done in that time.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf

import structlog
import trio

from allocator.errors import RuntimeDown, Unmeasured, Unpausable
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import Event, State
from allocator.instances.readiness import Question
from allocator.instances.register import Register
from allocator.instances.resting import Pause, next_step
from allocator.instances.use import returned

RESUME_READY_S = 2.0
"""A resumed instance accepted connections all the time; one that does not is stuck."""

PAUSE_RETRY_S = 10.0
"""After an engine that was down when an instance should rest."""

AwaitReady = Callable[[Instance, Question | None, float], Awaitable[None]]

log = structlog.get_logger()


class Pauses:
    """Pauses instances and wakes them.

    Args:
        register: is told.
        await_ready: waits until an instance accepts connections.
        rests: called when one more instance is paused.
    """

    def __init__(
        self, register: Register, await_ready: AwaitReady, rests: Callable[[], None]
    ) -> None:
        self._register = register
        self._await_ready = await_ready
        self._rests = rests

    async def pause(self, instance: Instance, why: str) -> None:
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
        self._register.advance(instance, Event.PAUSE)
        await returned(instance)
        instance.surplus = False
        if instance.wanted:
            self._use_on(instance)
        elif not instance.unwanted:
            await self._freeze(instance, why)

    async def resume(self, instance: Instance) -> None:
        """Thaw the instance for whoever waits; its promise is in the ledger again already.

        Raises:
            AllocatorError: it does not come back.
        """
        flight = instance.flight
        if flight is None:
            return
        begun = trio.current_time()
        self._register.advance(instance, Event.RESUME)
        try:
            with flight.phase("resume"):
                await instance.runtime.resume(instance.id)
        except RuntimeDown as exc:
            self._register.advance(instance, Event.FROZEN)
            self._register.rests(instance)
            flight.land(exc)
            return
        with flight.phase("ready"):
            await self._await_ready(instance, None, RESUME_READY_S)
        flight.land()
        self._register.woken(instance, trio.current_time() - begun)

    async def adopt(self, instance: Instance) -> None:
        """Take a paused instance of an earlier run back; it stays paused."""
        self._register.advance(instance, Event.ADOPTED_PAUSED)
        self._register.rests(instance)
        with suppress(RuntimeDown, Unmeasured):
            instance.memory_mib = await instance.runtime.memory_mib(instance.id)
        woken = instance.wanted or instance.unwanted  # meanwhile; its promise is another one then
        if instance.state is State.PAUSED and not woken:
            self._register.rests(instance)

    def _use_on(self, instance: Instance) -> None:
        """Take back that the instance should rest."""
        instance.last_active = trio.current_time()
        self._register.advance(instance, Event.WANTED)
        instance.land()

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
        self._register.paused(instance, why)
        if not instance.wanted:
            self._register.rests(instance)
            self._rests()
