"""How an instance comes to where it accepts connections: started anew, or taken over."""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio

from allocator.errors import AllocatorError, Exited, ImageMissing, NotReady, RuntimeDown
from allocator.instances.bound import wait_bound
from allocator.instances.flight import Flight
from allocator.instances.instance import Instance
from allocator.instances.lifecycle import Event, published
from allocator.instances.readiness import Outcome, Question, question_to
from allocator.instances.register import Register
from allocator.rules.turns import Turns
from allocator.runtime import Launch
from overlay.records import InstanceState

ANNOUNCE_AFTER_S = 0.15
"""A start in a network sandbox takes about half of it on an idle machine. Whoever asks another
machine within this time does not know of the start here, and may begin one there."""

ADOPTION_READY_S = 1.0
"""An adopted instance that does not answer within this time was never ready, or is stuck."""

ReadyWait = Callable[
    [str, Question | None, float, Callable[[], Awaitable[None]]], Awaitable[Outcome]
]

log = structlog.get_logger()


class Starts:
    """Brings instances to where they accept connections.

    Args:
        register: is told.
        turns: lets so many start at once.
        ready: waits until an instance is ready.
        proxy_port: where instances find this machine's proxy; may be set at any time.
    """

    def __init__(
        self, register: Register, turns: Turns, ready: ReadyWait, *, proxy_port: int
    ) -> None:
        self.proxy_port = proxy_port
        self._register = register
        self._turns = turns
        self._ready = ready

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
        self._register.advance(instance, Event.ADMITTED)
        try:
            await self._launch(instance, launch, flight)
        except ImageMissing:
            if launch.spec.image is None:
                raise
            self._register.advance(instance, Event.IMAGE_ABSENT)
            with flight.phase("image"):
                await instance.runtime.pull(launch)
            self._register.advance(instance, Event.IMAGE_FETCHED)
            await self._launch(instance, launch, flight)
        with flight.phase("ready"):
            await self.await_ready(
                instance, question_to(instance.spec), instance.spec.ready_timeout_s
            )
        self._register.started(instance)

    async def announce(self, instance: Instance) -> None:
        """Publish a start that takes longer than most, for others to join.

        Most are ready before. One record of them then makes every peer of the network work once,
        and not in the moment in which this machine's engine needs the processor.
        """
        await trio.sleep(ANNOUNCE_AFTER_S)
        if instance.record is None and published(instance.state) is InstanceState.STARTING:
            self._register.publish(instance, InstanceState.STARTING)

    async def adopt(self, instance: Instance) -> None:
        """Take an instance of an earlier run back into use if it answers.

        Raises:
            AllocatorError: it does not.
        """
        self._register.advance(instance, Event.ADOPTED)
        await self.await_ready(instance, question_to(instance.spec), ADOPTION_READY_S)

    async def await_ready(
        self, instance: Instance, health: Question | None, timeout_s: float
    ) -> None:
        """Return when the instance accepts connections, and answers `health` if that is given.

        Raises:
            Exited: it ended before.
            NotReady: it did not within `timeout_s`.
        """
        exited = partial(instance.runtime.exited, instance.id)
        datagrams = instance.spec.protocol == "udp" and health is None
        wait = wait_bound if datagrams else self._ready
        outcome = await wait(instance.address, health, timeout_s, exited)
        match outcome:
            case Outcome.READY:
                instance.last_active = trio.current_time()
                self._register.advance(instance, Event.ACCEPTS)
                log.info("instance.ready", service=instance.service, id=instance.id)
            case Outcome.EXITED:
                raise await how_it_ended(instance, "before it was ready")
            case Outcome.TIMED_OUT:
                end = await instance.runtime.post_mortem(instance.id)
                raise NotReady(_why_not_ready(instance, timeout_s), log=end.log)

    async def _launch(self, instance: Instance, launch: Launch, flight: Flight) -> None:
        """Create and start, when it is this start's turn; pulls and readiness take nobody's turn.

        Raises:
            AllocatorError: it is not started.
        """
        begun = trio.current_time()
        async with self._turns.turn(
            instance.id, instance.author, flight.caller, lambda: flight.waiting > 0
        ):
            flight.add("queue", trio.current_time() - begun)
            with flight.phase("create"):
                await instance.runtime.create(launch)
            self._register.advance(instance, Event.CREATED)
            with flight.phase("start"):
                instance.address = await instance.runtime.start(instance.id)


async def how_it_ended(instance: Instance, when: str) -> AllocatorError:
    """Return the error that an instance's end by itself is."""
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


def _why_not_ready(instance: Instance, timeout_s: float) -> str:
    port = instance.address.rpartition(":")[2]
    wanted = f"accepted no connection on port {port}"
    if instance.spec.health is not None:
        wanted = f"did not answer {instance.spec.health} on port {port} with 2xx"
    elif instance.spec.protocol == "udp":
        wanted = f"took no datagram on UDP port {port}"
    return (
        f"an instance of {instance.service} {wanted} within {timeout_s:g} s; it must listen on "
        "$SERVICE_PORT, and its log may say why it does not"
    )
