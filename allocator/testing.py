"""A machine in memory, whose instances cost nothing and fail on request.

`FakeRuntime` passes the contract tests of the real runtimes. What an instance does is its spec's
`command`: nothing given serves its environment over HTTP, `hang` never listens, `exit CODE TEXT`
ends at once with that code and log.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio

from allocator.errors import ImageMissing, LaunchFailed, RuntimeDown, Unmeasured, Unpausable
from allocator.runtime import (
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
    instance_environment,
)
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, Version, sign_record
from overlay.signed import Signed

_LOOPBACK = "127.0.0.1"

BUSY_STOP_S = 60.0
"""For a stop that shall leave nothing behind, however busy this machine is."""


@dataclass(slots=True)
class FakeInstance:
    """An instance on a fake machine; tests end it with `crash`.

    Attributes:
        awake: set while it is not paused.
        memory_mib: what it is found to use.
        connections: open to it.
        alone: set while there are none.
    """

    owner: str
    launch: Launch
    address: str = ""
    exit_code: int | None = None
    log: str = ""
    started: bool = False
    paused: bool = False
    awake: trio.Event = field(default_factory=trio.Event)
    memory_mib: int = 8
    connections: int = 0
    alone: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def crash(self, exit_code: int = 1, log: str = "") -> None:
        """End the instance as if its program had."""
        self.exit_code, self.log = exit_code, log
        self.scope.cancel()
        self.ended.set()


@dataclass(slots=True)
class FakeMachine:
    """What outlives the runtimes that use it.

    Attributes:
        instances: everything that was created and not removed.
        starts: how often each service was started.
        absent: digests of images that are not there.
        pullable: those of them that a pull brings.
        hangs: instances that accept no connection; `testing_instances.py` looks at them.
        problem: why the runtime is down; empty if it is not.
        unpausable: why no instance can be paused; empty if each can.
        create_s, start_s, pull_s, pause_s, resume_s, remove_s: how long these take, in seconds.
        ends_s: how long instances take to end when they are told to.
        listens: whether instances really listen; off, tests run in virtual time.
        keep_alive: whether they answer more than one request on a connection.
    """

    nursery: trio.Nursery
    instances: dict[InstanceId, FakeInstance] = field(default_factory=dict)
    starts: list[Launch] = field(default_factory=list)
    removed: list[InstanceId] = field(default_factory=list)
    absent: set[Digest] = field(default_factory=set)
    pullable: set[Digest] = field(default_factory=set)
    hangs: set[InstanceId] = field(default_factory=set)
    problem: str = ""
    create_s: float = 0.0
    start_s: float = 0.0
    pull_s: float = 0.0
    pause_s: float = 0.0
    resume_s: float = 0.0
    remove_s: float = 0.0
    ends_s: float = 0.0
    unpausable: str = ""
    listens: bool = True
    keep_alive: bool = False


@asynccontextmanager
async def open_fake_machine(*, listens: bool = True) -> AsyncIterator[FakeMachine]:
    """Yield a machine; at the end its instances end."""
    async with trio.open_nursery() as nursery:
        yield FakeMachine(nursery, listens=listens)
        nursery.cancel_scope.cancel()


class FakeRuntime:
    """Runs instances on a fake machine for one owner."""

    def __init__(
        self,
        machine: FakeMachine,
        owner: str = "me",
        name: Literal["docker", "process"] = "docker",
    ) -> None:
        self.name = name
        self._machine = machine
        self._owner = owner

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing until cancelled."""
        task_status.started()
        await trio.sleep_forever()

    def health(self) -> Health:
        """Return the machine's problem."""
        return Health(self._machine.problem)

    async def health_changed(self) -> None:
        """Wait forever."""
        await trio.sleep_forever()

    def capacity(self) -> Capacity:
        """Return a machine of 4 cores and 4 GiB."""
        return Capacity(4000, 4096, "linux/amd64")

    async def create(self, launch: Launch) -> None:
        """Create an instance if its image is there."""
        self._check()
        await trio.sleep(self._machine.create_s)
        image = launch.spec.image
        if image is not None and image.config_digest in self._machine.absent:
            raise ImageMissing(f"{image.reference} is not on this machine")
        self._machine.instances[launch.id] = FakeInstance(self._owner, launch)

    async def pull(self, launch: Launch) -> None:
        """Make the image be there, if it can be pulled."""
        await trio.sleep(self._machine.pull_s)
        image = launch.spec.image
        if image is None or image.config_digest not in self._machine.pullable:
            raise ImageMissing(f"the image of {launch.service} cannot be pulled")
        self._machine.absent.discard(image.config_digest)

    async def start(self, instance: InstanceId) -> str:
        """Start an instance to do what its command says."""
        self._check()
        found = self._machine.instances.get(instance)
        if found is None:
            raise LaunchFailed(f"{instance} was not created")
        await trio.sleep(self._machine.start_s)
        self._machine.starts.append(found.launch)
        found.started = True
        found.awake.set()
        found.address = f"{_LOOPBACK}:{len(self._machine.starts)}"
        command = found.launch.spec.command or ""
        if command.startswith("exit"):
            _, code, *text = command.split(" ", 2)
            found.crash(int(code), "".join(text))
        elif command != "hang" and self._machine.listens:
            found.address = await self._machine.nursery.start(_serve, found, self._machine)
        return found.address

    async def pause(self, instance: InstanceId) -> None:
        """Let the instance accept connections and answer none."""
        self._check()
        found = self._machine.instances.get(instance)
        if found is None or found.ended.is_set() or self._machine.unpausable:
            raise Unpausable(self._machine.unpausable or f"{instance} does not run")
        await trio.sleep(self._machine.pause_s)
        if not found.paused:
            found.paused, found.awake = True, trio.Event()

    async def resume(self, instance: InstanceId) -> None:
        """Let it answer again."""
        self._check()
        found = self._machine.instances.get(instance)
        if found is None or found.ended.is_set():
            raise LaunchFailed(f"{instance} does not run")
        await trio.sleep(self._machine.resume_s)
        found.paused = False
        found.awake.set()

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what the instance is set to use."""
        self._check()
        await trio.lowlevel.checkpoint()
        found = self._machine.instances.get(instance)
        if found is None or found.ended.is_set():
            raise Unmeasured(f"{instance} does not run")
        return found.memory_mib

    async def exited(self, instance: InstanceId) -> None:
        """Return when the instance has ended."""
        found = self._machine.instances.get(instance)
        if found is not None:
            await found.ended.wait()

    async def post_mortem(self, instance: InstanceId) -> PostMortem:
        """Return what `crash` was told."""
        found = self._machine.instances.get(instance)
        return PostMortem(None) if found is None else PostMortem(found.exit_code, log=found.log)

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        """End and forget the instance."""
        await trio.sleep(self._machine.remove_s)
        if instance in self._machine.instances:
            await trio.sleep(min(grace_s, self._machine.ends_s))
        self._check()
        found = self._machine.instances.pop(instance, None)
        if found is not None:
            self._machine.removed.append(instance)
            found.crash(137)

    async def adopt(self) -> list[Running]:
        """Return this owner's running instances; remove its others."""
        self._check()
        running = []
        for instance, found in list(self._machine.instances.items()):
            if found.owner != self._owner:
                continue
            if not found.started or found.ended.is_set():
                await self.remove(instance, grace_s=0)
                continue
            launch = found.launch
            running.append(
                Running(
                    id=instance,
                    service=launch.service,
                    revision=launch.revision,
                    author=launch.author,
                    spec=launch.spec,
                    address=found.address,
                    paused=found.paused,
                )
            )
        return running

    def _check(self) -> None:
        if self._machine.problem:
            raise RuntimeDown(self._machine.problem)


class FakePublisher:
    """Signs what it is told and keeps it, as the overlay's node does.

    Attributes:
        said: (instance id, state) in order; None is withdrawn.
        records: what was signed.
    """

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.said: list[tuple[InstanceId, InstanceState | None]] = []
        self.records: list[InstanceRecord] = []

    def set_instance(
        self,
        instance: InstanceId,
        *,
        service: ServiceName,
        revision: int,
        state: InstanceState,
        address: str,
        concurrency: int,
        resume_s: float = 0.0,
        healthy: bool = True,
    ) -> Signed:
        """Return the signed record."""
        self.said.append((instance, state))
        record = InstanceRecord(
            version=Version(epoch=1.0, counter=len(self.said)),
            id=instance,
            service=service,
            revision=revision,
            state=state,
            address=address,
            concurrency=concurrency,
            resume_s=resume_s,
            healthy=healthy,
        )
        self.records.append(record)
        return sign_record(self.identity, record)

    def withdraw_instance(self, instance: InstanceId) -> None:
        """Note it."""
        self.said.append((instance, None))


async def _serve(
    instance: FakeInstance,
    machine: FakeMachine,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    listeners = await trio.open_tcp_listeners(0, host=_LOOPBACK)
    port = int(listeners[0].socket.getsockname()[1])
    environment = instance_environment(instance.launch, port=port, proxy_ip=_LOOPBACK)
    body = "".join(f"{k}={v}\n" for k, v in environment.items()).encode()
    lasts = "keep-alive" if machine.keep_alive else "close"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: {lasts}\r\n\r\n".encode()

    async def answer(stream: trio.SocketStream) -> None:
        instance.connections += 1
        instance.alone = trio.Event()
        try:
            async with stream:
                await converse(stream)
        finally:
            instance.connections -= 1
            if not instance.connections:
                instance.alone.set()

    async def converse(stream: trio.SocketStream) -> None:
        with trio.move_on_after(5):
            while await stream.receive_some():
                await instance.awake.wait()
                await stream.send_all(head + body)
                if not machine.keep_alive:
                    return

    with instance.scope:
        task_status.started(f"{_LOOPBACK}:{port}")
        await trio.serve_listeners(answer, listeners)
