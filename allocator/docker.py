"""The Docker runtime: containers through the engine that the environment names.

The SDK blocks, so every call runs in a thread with a bounded number of them; nobody outside of this
module sees one. Exits are learnt from the engine's event stream; when that breaks (the engine was
restarted) the runtime is down until it stands again, and what ended meanwhile is found by a look at
the list. `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` choose the engine as they do for
the `docker` command; the API version is negotiated.
"""

import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import docker
import structlog
import trio
from docker.errors import APIError, ImageNotFound, NotFound

from allocator.containers import (
    ALIVE,
    MIB,
    Ownership,
    container_config,
    container_name,
    host_config,
    instance_id,
    memory_of,
)
from allocator.engine import CUT, accepts_calls, open_client, opened, remove, say
from allocator.errors import (
    ImageMissing,
    LaunchFailed,
    RuntimeDown,
    Unmeasured,
    Unpausable,
)
from allocator.exits import follow_exits
from allocator.image_engine import DockerImages
from allocator.image_fetch import pull_pushed
from allocator.images import follow_images
from allocator.networks import BRIDGES, address_of, ensure_networks
from allocator.runtime import (
    LOG_TAIL_LINES,
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
    last_lines,
)
from allocator.sandbox_image import ARCHITECTURES
from allocator.sandbox_pool import SandboxPlan, SandboxPool, network_mode
from allocator.sandboxes import Sandbox, sandbox_id, sort_out
from overlay.names import Digest, InstanceId, SandboxId, ServiceName
from overlay.spec import Image, Network

CALLS_AT_ONCE = 16
"""Threads in the SDK at once; the engine itself starts about as many containers in parallel."""

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 5.0

_LOOPBACK = "127.0.0.1"

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class _Container:
    """One instance's container; `launch` is None for one that an earlier run started."""

    service: ServiceName
    name: str
    port: int
    launch: Launch | None = None
    sandbox: Sandbox | None = None
    started: bool = False
    ended_unseen: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class DockerRuntime:
    """Instances as containers of a Docker engine.

    Args:
        ownership: whose containers these are.
        plan: how network sandboxes are made; without, each instance's network is made as it starts.
    """

    name: Literal["docker", "process"] = "docker"

    def __init__(self, ownership: Ownership, plan: SandboxPlan | None = None) -> None:
        self._ownership = ownership
        images = DockerImages()
        self.fetch: Callable[[Image], Awaitable[None]] = partial(
            pull_pushed, images, told=lambda _: None
        )
        self.sandboxes = SandboxPool(ownership, plan or SandboxPlan(), self._call)
        self._client: docker.APIClient | None = None
        self._problem = "the Docker engine was not looked for yet"
        self._capacity: Capacity | None = None
        self._addresses: dict[Network, str] = {}
        self._images: tuple[Digest, ...] = ()
        self._containers: dict[InstanceId, _Container] = {}
        self._health_change = trio.Event()
        self._limiter = trio.CapacityLimiter(CALLS_AT_ONCE)

    @property
    def bridges(self) -> dict[str, str]:
        """The machine's address on each of the containers' bridges; empty without an engine."""
        return {BRIDGES[network]: address for network, address in self._addresses.items()}

    def occupant(self, sandbox: SandboxId) -> tuple[ServiceName, InstanceId] | None:
        """Return the instance whose network `sandbox` holds, if there is one."""
        for instance, entry in self._containers.items():
            if entry.sandbox is not None and entry.sandbox.id == sandbox:
                return entry.service, instance
        return None

    def health(self) -> Health:
        """Return whether the engine answers, and which images it has."""
        return Health(self._problem, images=self._images)

    async def health_changed(self) -> None:
        """Wait until the engine is lost or back, or its images are others."""
        await self._health_change.wait()

    def capacity(self) -> Capacity:
        """Return what the engine's machine has.

        Raises:
            RuntimeDown: the engine has never answered yet.
        """
        if self._capacity is None:
            raise RuntimeDown(self._problem)
        return self._capacity

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the engine until cancelled; `started` once it answered, or is known not to."""
        ready = trio.Event()

        async def watch() -> None:
            delay = RECONNECT_FIRST_S
            while True:
                try:
                    await self._connect()
                    await self._follow_exits(ready)
                    delay = RECONNECT_FIRST_S
                except RuntimeDown as exc:
                    self._set_problem(str(exc))
                ready.set()
                await trio.sleep(delay)
                delay = min(delay * 2, RECONNECT_MOST_S)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                nursery.start_soon(follow_images, self._take_images)
                nursery.start_soon(self.sandboxes.run)
                await ready.wait()
                task_status.started()
        finally:
            if self._client is not None:
                self._client.close()

    async def create(self, launch: Launch) -> None:
        """Create the container, in a sandbox if there is one; see `Runtime.create`."""
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
        proxy_ip = _LOOPBACK if served else self._addresses.get(network, "")
        config = container_config(launch, self._ownership, proxy_ip)
        mode = BRIDGES[network] if sandbox is None else network_mode(sandbox)
        limits = host_config(launch.spec, mode)
        entry = _Container(launch.service, config["name"], launch.spec.port, launch, sandbox)
        self._containers[launch.id] = entry

        def create(client: docker.APIClient) -> None:
            client.create_container(**config, host_config=client.create_host_config(**limits))

        try:
            await self._call(create)
        except ImageNotFound as exc:
            del self._containers[launch.id]
            raise ImageMissing(_missing(launch.spec.image, exc.explanation)) from exc
        except APIError as exc:
            del self._containers[launch.id]
            raise LaunchFailed(f"the engine did not create the container: {say(exc)}") from exc

    async def pull(self, image: Image) -> None:
        """Fetch the image by `fetch`; see `Runtime.pull`."""
        await self.fetch(image)

    async def start(self, instance: InstanceId) -> str:
        """Start the container; return its address on the bridge. See `Runtime.start`."""
        entry = self._containers.get(instance)
        if entry is None:
            raise LaunchFailed(f"{instance} was not created")
        with self.sandboxes.start_under_way():
            return f"{await self._start(entry)}:{entry.port}"

    async def _start(self, entry: _Container) -> str:
        entry.started = True
        try:
            if entry.sandbox is not None:
                await self._call(lambda client: client.start(entry.name))
                return entry.sandbox.address
            return await self._call(lambda client: _start(client, entry.name))
        except APIError as exc:
            lacking = say(exc)
            if isinstance(exc, NotFound) and "network" in lacking:
                return await self._start_on_new_network(entry)
            if entry.sandbox is not None and _is_gone(entry.sandbox, lacking):
                return await self._start_without_sandbox(entry, exc)
            raise LaunchFailed(f"the engine did not start the container: {lacking}") from exc

    async def pause(self, instance: InstanceId) -> None:
        """Freeze the container's cgroup; see `Runtime.pause`."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise Unpausable(f"no container of {instance} runs")
        try:
            await self._call(lambda client: _pause(client, entry.name))
        except APIError as exc:
            raise Unpausable(f"the engine did not pause the container: {say(exc)}") from exc

    async def resume(self, instance: InstanceId) -> None:
        """Thaw the container's cgroup; see `Runtime.resume`."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise LaunchFailed(f"no container of {instance} runs")
        try:
            await self._call(lambda client: _unpause(client, entry.name))
        except APIError as exc:
            raise LaunchFailed(f"the engine did not resume the container: {say(exc)}") from exc

    async def memory_mib(self, instance: InstanceId) -> int:
        """Return what the container's cgroup uses, less what the kernel would give back."""
        entry = self._containers.get(instance)
        if entry is None or entry.ended.is_set():
            raise Unmeasured(f"no container of {instance} runs")
        try:
            stats = await self._call(
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
            unseen = not await trio.to_thread.run_sync(
                accepts_calls, limiter=self._limiter, abandon_on_cancel=True
            )
        try:
            end = await self._call(lambda client: _post_mortem(client, entry.name))
        except (APIError, RuntimeDown):
            return PostMortem(None, runtime_stopped=unseen)
        return replace(end, runtime_stopped=unseen)

    async def remove(self, instance: InstanceId, *, grace_s: float) -> None:
        """Stop and remove the container."""
        entry = self._containers.get(instance)
        if entry is None:
            return
        polite = entry.started and not entry.ended.is_set()

        def remove_both(client: docker.APIClient) -> None:
            remove(client, entry.name, grace_s if polite else 0)
            if entry.sandbox is not None:
                remove(client, entry.sandbox.container)

        try:
            await self._call(remove_both, abandon=True)
        except APIError as exc:
            raise RuntimeDown(f"the engine did not remove {entry.name}: {say(exc)}") from exc
        entry.ended.set()
        self._containers.pop(instance, None)
        if entry.sandbox is not None:
            self.sandboxes.forget(entry.sandbox)

    async def adopt(self) -> list[Running]:
        """Take over this owner's running and paused containers; remove its others."""
        rows = await self._call(self._list)
        found = sort_out(rows, self._containers.keys(), self.sandboxes.known)
        for running, sandbox in found.running:
            name = container_name(running.service, running.id)
            self._containers[running.id] = _Container(
                running.service, name, running.spec.port, sandbox=sandbox, started=True
            )
            if sandbox is not None:
                self.sandboxes.adopt(sandbox)
        for container in found.nobodys:
            await self._call(partial(remove, name=container))
        return [running for running, _ in found.running]

    async def _connect(self) -> None:
        """Reach the engine and see to the network.

        Raises:
            RuntimeDown: saying what to do.
        """
        if self._client is not None:
            self._client.close()
        self._client = client = await opened(open_client, self._limiter)
        try:
            about = await trio.to_thread.run_sync(
                _survey, client, limiter=self._limiter, abandon_on_cancel=True
            )
        except (APIError, *CUT) as exc:
            raise RuntimeDown(f"the Docker engine does not answer: {say(exc)}") from exc
        self._capacity, self._addresses = about

    async def _follow_exits(self, ready: trio.Event) -> None:
        """Take in exits until the engine is lost.

        Raises:
            RuntimeDown: it is.
        """

        async def settle() -> None:
            sandboxes = await self._find_ended()
            self._set_problem("")
            self.sandboxes.keep_only(sandboxes)
            ready.set()

        await follow_exits(self._client, self._ownership.filters(), settle, self._take_exit)

    def _take_exit(self, labels: Mapping[str, str]) -> None:
        instance = instance_id(labels)
        entry = self._containers.get(instance) if instance is not None else None
        if entry is not None:
            entry.ended.set()
        if (sandbox := sandbox_id(labels)) is not None:
            self.sandboxes.ended(sandbox)
            for other in self._containers.values():
                if other.sandbox is not None and other.sandbox.id == sandbox:
                    other.ended.set()

    async def _find_ended(self) -> set[SandboxId | None]:
        """Mark what ended while no event stream stood; return the sandboxes that run."""
        rows = await self._call(self._list, settling=True)
        alive = [row.get("Labels") or {} for row in rows if row.get("State") in ALIVE]
        running = {instance_id(labels) for labels in alive}
        sandboxes = {sandbox_id(labels) for labels in alive} | {None}
        for instance, entry in self._containers.items():
            sandbox = None if entry.sandbox is None else entry.sandbox.id
            lives = instance in running and sandbox in sandboxes
            if entry.started and not lives and not entry.ended.is_set():
                entry.ended_unseen = True
                entry.ended.set()
        return sandboxes

    def _list(self, client: docker.APIClient) -> list[dict[str, Any]]:
        rows = client.containers(all=True, filters={"label": self._ownership.filters()})
        return list(rows)

    async def _start_on_new_network(self, entry: _Container) -> str:
        """Start a container whose network was pruned away meanwhile."""
        try:
            self._addresses = await self._call(ensure_networks)
            return await self._call(lambda client: _start(client, entry.name))
        except APIError as exc:
            raise LaunchFailed(f"the engine did not start the container: {say(exc)}") from exc

    async def _start_without_sandbox(self, entry: _Container, why: APIError) -> str:
        """Start an instance whose sandbox died after it was taken; it has another container."""
        launch = entry.launch
        if launch is None or entry.sandbox is None:
            raise LaunchFailed(f"the engine did not start the container: {say(why)}") from why
        self._give_up_on(entry.sandbox, why)
        await self._call(partial(remove, name=entry.name))
        await self._create(launch, None)
        return await self._start(self._containers[launch.id])

    def _give_up_on(self, sandbox: Sandbox, why: Exception) -> None:
        log.info("sandbox.unusable", sandbox=sandbox.id, error=say(why))
        self.sandboxes.discard(sandbox)

    def _set_problem(self, problem: str) -> None:
        if problem == self._problem:
            return
        if problem:
            log.warning("engine.down", problem=problem)
        else:
            log.info("engine.up", bridges=self.bridges)
        self._problem = problem
        self._tell_health()

    def _take_images(self, images: tuple[Digest, ...]) -> None:
        if images != self._images:
            self._images = images
            self._tell_health()

    def _tell_health(self) -> None:
        self._health_change.set()
        self._health_change = trio.Event()

    async def _call(
        self,
        function: Callable[[docker.APIClient], T],
        *,
        abandon: bool = False,
        settling: bool = False,
    ) -> T:
        """Run `function` with the client in a thread; it runs to its end unless `abandon`.

        While the engine is lost nothing is tried, except in `settling` it when it is back.

        Raises:
            APIError: the engine said no.
            RuntimeDown: it does not answer.
        """
        client = self._client
        if client is None or (self._problem and not settling):
            raise RuntimeDown(self._problem)
        try:
            return await trio.to_thread.run_sync(
                function, client, limiter=self._limiter, abandon_on_cancel=abandon
            )
        except APIError:
            raise  # it is a RequestException too
        except CUT as exc:
            raise RuntimeDown(f"the Docker engine does not answer: {say(exc)}") from exc


def _survey(client: docker.APIClient) -> tuple[Capacity, dict[Network, str]]:
    about = client.info()
    architecture = about.get("Architecture") or platform.machine()
    capacity = Capacity(
        cpu_millicores=int(about["NCPU"]) * 1000,
        memory_mib=int(about["MemTotal"]) // MIB,
        platform=f"{about['OSType']}/{ARCHITECTURES.get(architecture, architecture)}",
    )
    return capacity, ensure_networks(client)


def _start(client: docker.APIClient, name: str) -> str:
    """Return the container's address."""
    client.start(name)
    return address_of(client.inspect_container(name))


def _is_gone(sandbox: Sandbox, said: str) -> bool:
    """Whether the engine refused a start because the sandbox does not run."""
    return "non running container" in said or sandbox.container in said


def _pause(client: docker.APIClient, name: str) -> None:
    try:
        client.pause(name)
    except APIError as exc:
        if "already paused" not in say(exc):
            raise


def _unpause(client: docker.APIClient, name: str) -> None:
    try:
        client.unpause(name)
    except APIError as exc:
        if "is not paused" not in say(exc):
            raise


def _post_mortem(client: docker.APIClient, name: str) -> PostMortem:
    state = client.inspect_container(name)["State"]
    text = client.logs(name, tail=LOG_TAIL_LINES).decode(errors="replace")
    ended = state.get("Status") in {"exited", "dead"}
    return PostMortem(
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        log=last_lines(text),
    )


def _missing(image: Image | None, why: object) -> str:
    name = "the image" if image is None else f"{image.reference} ({image.config_digest[:19]}…)"
    return f"{name} is not on this machine {why or ''}".rstrip()
