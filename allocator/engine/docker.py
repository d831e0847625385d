"""The Docker runtime: containers through the engine that the environment names.

How the engine is reached, and that it is lost and back, is `session.py`'s; what is asked of
one container is in `calls.py`, how a container is described in `containers.py`. Here is
which container belongs to which instance, and in which sandbox it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

import docker
import structlog
import trio
from docker.errors import APIError, ImageNotFound, NotFound

from allocator.engine import calls as container_calls
from allocator.engine.client import remove, say
from allocator.engine.containers import (
    Ownership,
    container_config,
    container_name,
    host_config,
    memory_of,
)
from allocator.engine.image_store import DockerImages
from allocator.engine.networks import BRIDGES
from allocator.engine.sandbox_pool import SandboxPlan, SandboxPool, network_mode
from allocator.engine.sandboxes import Sandbox, sandbox_id, sort_out
from allocator.engine.session import EngineSession
from allocator.engine.sweep import Sweep
from allocator.engine.table import Container, ContainerTable
from allocator.errors import (
    ImageMissing,
    LaunchFailed,
    RuntimeDown,
    Unmeasured,
    Unpausable,
)
from allocator.images.registry import pull_pushed
from allocator.runtime import (
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
)
from overlay.names import InstanceId, PeerId, SandboxId, ServiceName
from overlay.spec import Image

_LOOPBACK = "127.0.0.1"

log = structlog.get_logger()


class Fetch(Protocol):
    """Makes the engine have an image, or raises `ImageMissing`."""

    async def __call__(self, image: Image, owner: PeerId, *, by_name: bool) -> None:
        """Return when it is there.

        Args:
            image: what is wanted.
            owner: whose service wants it.
            by_name: the engine has to pull it itself.
        """
        ...


class DockerRuntime:
    """Instances as containers of a Docker engine.

    Args:
        ownership: whose containers these are.
        plan: how network sandboxes are made; without, each instance's network is made as it starts.

    Attributes:
        fetch: brings images that are not here; from their registry alone until others are known.
        rests_on_name: whether an image may run for this owner only for what it is called.
        occupied: told of each sandbox that has got an instance.
    """

    name: Literal["docker", "process"] = "docker"

    def __init__(self, ownership: Ownership, plan: SandboxPlan | None = None) -> None:
        self._ownership = ownership
        self._images = DockerImages()
        self.fetch: Fetch = self._pull_pushed
        self.rests_on_name: Callable[[PeerId, Image], bool] = lambda _owner, _image: False
        self.occupied: Callable[[SandboxId], None] = lambda _sandbox: None
        self._engine = EngineSession(ownership.filters())
        self.sandboxes = SandboxPool(ownership, plan or SandboxPlan(), self._engine.call)
        self._sweep = Sweep(self._engine.call)
        self._containers = ContainerTable()

    @property
    def bridges(self) -> Mapping[str, str]:
        """The machine's address on each of the containers' bridges; empty without an engine."""
        return self._engine.bridges

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        """Return the instance whose network `sandbox` holds, if there is one."""
        return self._containers.occupant(sandbox)

    def health(self) -> Health:
        """Return whether the engine answers, which images it has, and what its kernel lacks."""
        engine = self._engine
        return Health(engine.problem, images=engine.images, unenforced=engine.unenforced)

    async def health_changed(self) -> None:
        """Wait until the engine is lost or back, or its images are others."""
        await self._engine.changed()

    def capacity(self) -> Capacity:
        """Return what the engine's machine has.

        Raises:
            RuntimeDown: the engine has never answered yet.
        """
        return self._engine.capacity()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the engine until cancelled; `started` once it answered, or is known not to."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.sandboxes.run)
                nursery.start_soon(self._sweep.run)
                await nursery.start(self._engine.run, self._settle, self._take_exit)
                task_status.started()
        finally:
            self._engine.close()

    async def create(self, launch: Launch) -> None:
        """Create the container, in a sandbox if there is one; see `Runtime.create`."""
        image = launch.spec.image
        if image is not None and self.rests_on_name(launch.author, image):
            await self._insist_on_name(image)
        with self.sandboxes.start_under_way():
            sandbox = await self.sandboxes.take(launch)
            if sandbox is not None:
                try:
                    return await self._create(launch, sandbox)
                except ImageMissing:
                    self.sandboxes.give_back(sandbox)
                    raise
                except LaunchFailed as exc:
                    self._give_up_on(sandbox, exc)
            return await self._create(launch, None)

    async def _create(self, launch: Launch, sandbox: Sandbox | None) -> None:
        network = launch.spec.network
        served = sandbox is not None and self.sandboxes.is_handed_over(sandbox)
        proxy_ip = _LOOPBACK if served else self._engine.addresses.get(network, "")
        config = container_config(launch, self._ownership, proxy_ip)
        mode = BRIDGES[network] if sandbox is None else network_mode(sandbox)
        limits = host_config(launch.spec, mode)
        entry = Container(launch.service, config["name"], launch.spec.port, launch, sandbox)
        self._containers[launch.id] = entry

        def create(client: docker.APIClient) -> None:
            client.create_container(**config, host_config=client.create_host_config(**limits))

        try:
            await self._engine.call(create)
        except ImageNotFound as exc:
            del self._containers[launch.id]
            raise ImageMissing(_missing(launch.spec.image, exc.explanation)) from exc
        except APIError as exc:
            del self._containers[launch.id]
            raise LaunchFailed(f"the engine did not create the container: {say(exc)}") from exc
        if sandbox is not None:
            self.occupied(sandbox.id)

    async def pull(self, launch: Launch) -> None:
        """Fetch the image by `fetch`; see `Runtime.pull`."""
        if launch.spec.image is not None:
            by_name = self.rests_on_name(launch.author, launch.spec.image)
            await self.fetch(launch.spec.image, launch.author, by_name=by_name)

    async def _pull_pushed(self, image: Image, owner: PeerId, *, by_name: bool) -> None:  # noqa: ARG002
        await pull_pushed(self._images, image, lambda _done, _total: None)

    async def _insist_on_name(self, image: Image) -> None:
        """See that the engine pulled an image by its name, or pushed it.

        Raises:
            ImageMissing: it did not, or does not have it.
        """
        if image.repo_digest not in await self._images.repo_digests(image.config_digest):
            raise ImageMissing(
                f"{image.reference} is not here under the name {image.repo_digest}, for which "
                "alone this machine's policy lets it run"
            )

    async def start(self, instance: InstanceId) -> str:
        """Start the container; return its address on the bridge. See `Runtime.start`."""
        entry = self._containers.get(instance)
        if entry is None:
            raise LaunchFailed(f"{instance} was not created")
        with self.sandboxes.start_under_way():
            return f"{await self._start(entry)}:{entry.port}"

    async def _start(self, entry: Container) -> str:
        entry.started = True
        try:
            if entry.sandbox is not None:
                await self._engine.call(lambda client: client.start(entry.name))
                return entry.sandbox.address
            return await self._engine.call(lambda client: container_calls.start(client, entry.name))
        except APIError as exc:
            lacking = say(exc)
            if isinstance(exc, NotFound) and "network" in lacking:
                return await self._start_on_new_network(entry)
            if entry.sandbox is not None and _does_not_run(entry.sandbox, lacking):
                return await self._start_without_sandbox(entry, exc)
            raise LaunchFailed(f"the engine did not start the container: {lacking}") from exc

    async def pause(self, instance: InstanceId) -> None:
        """Freeze the container's cgroup; see `Runtime.pause`."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise Unpausable(f"no container of {instance} runs")
        try:
            await self._engine.call(lambda client: container_calls.pause(client, entry.name))
        except APIError as exc:
            raise Unpausable(f"the engine did not pause the container: {say(exc)}") from exc

    async def resume(self, instance: InstanceId) -> None:
        """Thaw the container's cgroup; see `Runtime.resume`."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise LaunchFailed(f"no container of {instance} runs")
        try:
            await self._engine.call(lambda client: container_calls.unpause(client, entry.name))
        except APIError as exc:
            raise LaunchFailed(f"the engine did not resume the container: {say(exc)}") from exc

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what the container's cgroup uses, less what the kernel would give back."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise Unmeasured(f"no container of {instance} runs")
        try:
            stats = await self._engine.call(
                lambda client: client.stats(entry.name, stream=False, one_shot=True)
            )
        except APIError as exc:
            raise Unmeasured(f"the engine did not measure the container: {say(exc)}") from exc
        return memory_of(stats)

    async def exited(self, instance: InstanceId) -> None:
        """Return when the container has ended."""
        entry = self._containers.get(instance)
        if entry is not None:
            await entry.ended.wait()

    async def post_mortem(self, instance: InstanceId) -> PostMortem:
        """Return exit code, reason and log tail of a container.

        An engine that is stopped ends its containers; by then it takes no new connection.
        """
        entry = self._containers.get(instance)
        if entry is None:
            return PostMortem(None)
        unseen = entry.ended_unseen
        if entry.ended.is_set() and not unseen:
            unseen = not await self._engine.accepts_calls()
        try:
            end = await self._engine.call(
                lambda client: container_calls.post_mortem(client, entry.name)
            )
        except (APIError, RuntimeDown):
            return PostMortem(None, runtime_stopped=unseen)
        return replace(end, runtime_stopped=unseen)

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        """Stop and remove the container.

        The engine is asked step by step, and the grace is waited for without it: where hundreds go
        at once all are told to end, then ended, then removed, as far as there is time.
        """
        entry = self._containers.get(instance)
        if entry is None:
            return
        try:
            if entry.started and not entry.ended.is_set() and grace_s > 0:
                await self._end(entry, grace_s)
            await self._engine.call(partial(remove, name=entry.name), abandon=True)
            if entry.sandbox is not None:
                container = entry.sandbox.container
                await self._engine.call(partial(remove, name=container), abandon=True)
        except APIError as exc:
            raise RuntimeDown(f"the engine did not remove {entry.name}: {say(exc)}") from exc
        entry.ended.set()
        self._containers.pop(instance, None)
        if entry.sandbox is not None:
            self.sandboxes.forget(entry.sandbox)

    async def _end(self, entry: Container, grace_s: float) -> None:
        ask, kill = container_calls.ask_to_end, container_calls.kill
        await self._engine.call(partial(ask, name=entry.name), abandon=True)
        with trio.move_on_after(grace_s):
            await entry.ended.wait()
        if not entry.ended.is_set():
            await self._engine.call(partial(kill, name=entry.name), abandon=True)

    async def adopt(self) -> list[Running]:
        """Take over this owner's running and paused containers; have its others removed."""
        rows = await self._engine.call(self._list)
        found = sort_out(rows, self._containers.keys(), self.sandboxes.known)
        for running, sandbox in found.running:
            name = container_name(running.service, running.id)
            self._containers[running.id] = Container(
                running.service, name, running.spec.port, sandbox=sandbox, started=True
            )
            if sandbox is not None:
                self.sandboxes.adopt(sandbox)
                self.occupied(sandbox.id)
        await self._sweep.remove(found.nobodys)
        return [running for running, _ in found.running]

    def _take_exit(self, labels: Mapping[str, str]) -> None:
        self._containers.take_exit(labels)
        if (sandbox := sandbox_id(labels)) is not None:
            self.sandboxes.ended(sandbox)

    async def _settle(self) -> Callable[[], None]:
        """Mark what ended while no event stream stood; return what to do once the engine is up."""
        sandboxes = self._containers.compare(await self._engine.call(self._list, settling=True))
        return partial(self.sandboxes.keep_only, sandboxes)

    def _list(self, client: docker.APIClient) -> list[dict[str, Any]]:
        rows = client.containers(all=True, filters={"label": self._ownership.filters()})
        return list(rows)

    async def _start_on_new_network(self, entry: Container) -> str:
        """Start a container whose network was pruned away meanwhile."""
        try:
            await self._engine.renew_networks()
            return await self._engine.call(lambda client: container_calls.start(client, entry.name))
        except APIError as exc:
            raise LaunchFailed(f"the engine did not start the container: {say(exc)}") from exc

    async def _start_without_sandbox(self, entry: Container, why: APIError) -> str:
        """Start an instance whose sandbox died after it was taken; it has another container."""
        launch = entry.launch
        if launch is None or entry.sandbox is None:
            raise LaunchFailed(f"the engine did not start the container: {say(why)}") from why
        self._give_up_on(entry.sandbox, why)
        await self._engine.call(partial(remove, name=entry.name))
        await self._create(launch, None)
        return await self._start(self._containers[launch.id])

    def _give_up_on(self, sandbox: Sandbox, why: Exception) -> None:
        log.info("sandbox.unusable", sandbox=sandbox.id, error=say(why))
        self.sandboxes.discard(sandbox)


def _does_not_run(sandbox: Sandbox, said: str) -> bool:
    """Whether the engine refused a start because the sandbox does not run."""
    return "non running container" in said or sandbox.container in said


def _missing(image: Image | None, why: object) -> str:
    name = "the image" if image is None else f"{image.reference} ({image.config_digest[:19]}…)"
    return f"{name} is not on this machine {why or ''}".rstrip()
