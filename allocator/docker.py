"""The Docker runtime: containers through the engine that the environment names.

The SDK blocks, so every call runs in a thread with a bounded number of them; nobody outside of this
module sees one. Exits are learnt from the engine's event stream; when that breaks (the engine was
restarted) the runtime is down until it stands again, and what ended meanwhile is found by a look at
the list. `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` choose the engine as they do for
the `docker` command; the API version is negotiated.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeVar

import docker
import structlog
import trio
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from allocator.containers import (
    ALIVE,
    BRIDGE,
    BRIDGE_OPTIONS,
    MIB,
    Ownership,
    address_of,
    container_config,
    container_name,
    host_config,
    instance_id,
    instance_of,
    memory_of,
)
from allocator.engine import CUT, accepts_calls, close_stream, open_client, say
from allocator.errors import ImageMissing, LaunchFailed, RuntimeDown, Unmeasured, Unpausable
from allocator.images import follow_images
from allocator.runtime import (
    LOG_TAIL_LINES,
    Capacity,
    Health,
    Launch,
    PostMortem,
    Running,
    last_lines,
)
from overlay.names import Digest, InstanceId
from overlay.spec import Image

CALLS_AT_ONCE = 16
"""Threads in the SDK at once; the engine itself starts about as many containers in parallel."""

RECONNECT_FIRST_S = 0.2
RECONNECT_MOST_S = 5.0
REPLAY_S = 2
"""How far back a fresh event stream reaches, so that nothing is lost while it is opened."""

_FORBIDDEN, _CONFLICT = 403, 409
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class _Container:
    name: str
    port: int
    started: bool = False
    ended_unseen: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class DockerRuntime:
    """Instances as containers of a Docker engine.

    Args:
        ownership: whose containers these are.
    """

    name: Literal["docker", "process"] = "docker"

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._client: docker.APIClient | None = None
        self._problem = "the Docker engine was not looked for yet"
        self._capacity: Capacity | None = None
        self._bridge_address = ""
        self._images: tuple[Digest, ...] = ()
        self._containers: dict[InstanceId, _Container] = {}
        self._health_change = trio.Event()
        self._limiter = trio.CapacityLimiter(CALLS_AT_ONCE)

    @property
    def bridge_address(self) -> str:
        """The machine's address on the containers' bridge; empty before the engine was reached."""
        return self._bridge_address

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
                    await self._follow_events(ready)
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
                await ready.wait()
                task_status.started()
        finally:
            if self._client is not None:
                self._client.close()

    async def create(self, launch: Launch) -> None:
        """Create the container; see `Runtime.create`."""
        config = container_config(launch, self._ownership, self._bridge_address)
        limits = host_config(launch.spec)
        entry = _Container(config["name"], launch.spec.port)
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
        """Pull the image by the digest it was pushed under; see `Runtime.pull`."""
        reference = image.repo_digest
        if reference is None:
            raise ImageMissing(_missing(image, "and it was pushed to no registry"))
        log.info("image.pull", image=image.reference, digest=reference)
        try:
            found = await self._call(lambda client: _pull(client, reference), abandon=True)
        except (DockerException, ImageMissing) as exc:  # also for what is no image's name
            raise ImageMissing(_missing(image, f"and cannot be pulled: {say(exc)}")) from exc
        if found != image.config_digest:
            raise ImageMissing(
                f"{reference} is {found}, not {image.config_digest}, which the service names"
            )

    async def start(self, instance: InstanceId) -> str:
        """Start the container; return its address on the bridge. See `Runtime.start`."""
        entry = self._containers.get(instance)
        if entry is None:
            raise LaunchFailed(f"{instance} was not created")
        entry.started = True
        try:
            found = await self._call(lambda client: _start(client, entry.name))
        except NotFound as exc:
            if "network" not in str(exc.explanation):
                raise LaunchFailed(f"the container is gone: {say(exc)}") from exc
            found = await self._start_on_new_network(entry)
        except APIError as exc:
            raise LaunchFailed(f"the engine did not start the container: {say(exc)}") from exc
        return f"{address_of(found)}:{entry.port}"

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
        try:
            await self._call(
                lambda client: _remove(client, entry.name, grace_s if polite else 0), abandon=True
            )
        except APIError as exc:
            raise RuntimeDown(f"the engine did not remove {entry.name}: {say(exc)}") from exc
        entry.ended.set()
        self._containers.pop(instance, None)

    async def adopt(self) -> list[Running]:
        """Take over this owner's running and paused containers; remove its others."""
        found = []
        for container in await self._call(self._list):
            if instance_id(container.get("Labels") or {}) in self._containers:
                continue
            running = instance_of(container)
            if running is None:
                await self._call(partial(_remove, name=container["Id"], grace_s=0))
                continue
            name = container_name(running.service, running.id)
            entry = _Container(name, running.spec.port, started=True)
            self._containers[running.id] = entry
            found.append(running)
        return found

    async def _connect(self) -> None:
        """Reach the engine and see to the network.

        Raises:
            RuntimeDown: saying what to do.
        """
        if self._client is not None:
            self._client.close()
        self._client = client = await trio.to_thread.run_sync(
            open_client, limiter=self._limiter, abandon_on_cancel=True
        )
        try:
            about = await trio.to_thread.run_sync(
                _survey, client, limiter=self._limiter, abandon_on_cancel=True
            )
        except (APIError, *CUT) as exc:
            raise RuntimeDown(f"the Docker engine does not answer: {say(exc)}") from exc
        self._capacity, self._bridge_address = about

    async def _follow_events(self, ready: trio.Event) -> None:
        """Take in exits until the stream breaks."""
        client = self._client
        streams: list[Any] = []

        def opened(stream: Any) -> None:
            streams.append(stream)

        async def settle() -> None:
            await self._find_ended()
            self._set_problem("")
            ready.set()

        try:
            async with trio.open_nursery() as nursery:

                async def pump() -> None:
                    await trio.to_thread.run_sync(
                        self._pump_events, client, opened, settle, abandon_on_cancel=True
                    )

                nursery.start_soon(pump)
        except* (APIError, *CUT) as group:
            cause = group.exceptions[0]
            raise RuntimeDown(f"the Docker engine was lost: {say(cause)}") from cause
        finally:
            for stream in streams:
                close_stream(stream)
        raise RuntimeDown("the Docker engine was lost: it ended its event stream")

    def _pump_events(
        self, client: docker.APIClient, opened: Callable[[Any], None], settle: Callable[[], Any]
    ) -> None:
        """Run in a thread: hand the engine's events to the trio side."""
        stream = client.events(
            decode=True,
            since=_engine_now(client) - REPLAY_S,
            filters={"type": "container", "event": ["die"], "label": self._ownership.filters()},
        )
        try:
            trio.from_thread.run_sync(opened, stream)
            trio.from_thread.run(settle)
            for event in stream:
                trio.from_thread.run_sync(self._take_event, event)
        finally:
            close_stream(stream)

    def _take_event(self, event: Mapping[str, Any]) -> None:
        instance = instance_id(event.get("Actor", {}).get("Attributes", {}))
        entry = self._containers.get(instance) if instance is not None else None
        if entry is not None:
            entry.ended.set()

    async def _find_ended(self) -> None:
        """Mark what ended while no event stream stood."""
        rows = await self._call(self._list, settling=True)
        running = {
            instance_id(row.get("Labels") or {}) for row in rows if row.get("State") in ALIVE
        }
        for instance, entry in self._containers.items():
            if entry.started and instance not in running and not entry.ended.is_set():
                entry.ended_unseen = True
                entry.ended.set()

    def _list(self, client: docker.APIClient) -> list[dict[str, Any]]:
        rows = client.containers(all=True, filters={"label": self._ownership.filters()})
        return list(rows)

    async def _start_on_new_network(self, entry: _Container) -> dict[str, Any]:
        """Start a container whose network was pruned away meanwhile."""
        try:
            self._bridge_address = await self._call(_ensure_network)
            return await self._call(lambda client: _start(client, entry.name))
        except APIError as exc:
            raise LaunchFailed(f"the engine did not start the container: {say(exc)}") from exc

    def _set_problem(self, problem: str) -> None:
        if problem == self._problem:
            return
        if problem:
            log.warning("engine.down", problem=problem)
        else:
            log.info("engine.up", bridge=self._bridge_address)
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


def _survey(client: docker.APIClient) -> tuple[Capacity, str]:
    about = client.info()
    architecture = about.get("Architecture") or platform.machine()
    capacity = Capacity(
        cpu_millicores=int(about["NCPU"]) * 1000,
        memory_mib=int(about["MemTotal"]) // MIB,
        platform=f"{about['OSType']}/{_ARCHITECTURES.get(architecture, architecture)}",
    )
    return capacity, _ensure_network(client)


def _engine_now(client: docker.APIClient) -> int:
    """Return the engine's clock, which need not be this machine's."""
    return int(datetime.fromisoformat(client.info()["SystemTime"]).timestamp())


def _ensure_network(client: docker.APIClient) -> str:
    """Create the bridge if it is not there; return the machine's address on it.

    Two allocators may do this at once: the engine lets one win, because of the bridge's name.
    """
    try:
        return _gateway(client.inspect_network(BRIDGE))
    except NotFound:
        pass
    try:
        client.create_network(
            BRIDGE,
            driver="bridge",
            options=BRIDGE_OPTIONS,
            labels={"myxo.bridge": "1"},
            check_duplicate=True,
        )
    except APIError as exc:
        if exc.status_code not in {_FORBIDDEN, _CONFLICT}:
            raise
    return _gateway(client.inspect_network(BRIDGE))


def _gateway(network: Mapping[str, Any]) -> str:
    configs: Sequence[Mapping[str, Any]] = network["IPAM"].get("Config") or ({},)
    return str(configs[0].get("Gateway", "")).split("/")[0]


def _pull(client: docker.APIClient, reference: str) -> str:
    """Return the config digest of what was pulled."""
    for line in _lines(client, reference):
        if "error" in line:
            raise ImageMissing(str(line["error"]))
    return str(client.inspect_image(reference)["Id"])


def _lines(client: docker.APIClient, reference: str) -> Iterator[Mapping[str, Any]]:
    yield from client.pull(reference, stream=True, decode=True)


def _start(client: docker.APIClient, name: str) -> dict[str, Any]:
    client.start(name)
    found: dict[str, Any] = client.inspect_container(name)
    return found


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


def _remove(client: docker.APIClient, name: str, grace_s: float) -> None:
    try:
        if grace_s > 0:
            client.stop(name, timeout=max(1, round(grace_s)))
        client.remove_container(name, force=True, v=True)
    except NotFound:
        return
    except APIError as exc:
        if exc.status_code != _CONFLICT:  # its removal is under way already
            raise


def _missing(image: Image | None, why: object) -> str:
    name = "the image" if image is None else f"{image.reference} ({image.config_digest[:19]}…)"
    return f"{name} is not on this machine {why or ''}".rstrip()
