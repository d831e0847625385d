"""The allocator daemon: wires runtimes, instances, gateway and leases to the overlay's node.

What must outlive what, from the outside in: the node, so that the network hears of the end; the
runtimes, so that instances can be removed; the instances; the gateway and the allocate call. A stop
takes them down from the inside out.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import trio

from allocator.admission import Ledger, Limits, Policy, Refusal, check_constraints
from allocator.allowed import allowed_keys
from allocator.cgroups import delegated
from allocator.containers import MIB, Ownership
from allocator.docker import DockerRuntime
from allocator.engine_containers import EngineContainers
from allocator.errors import AllocatorError, RuntimeDown
from allocator.gateway import Gateway
from allocator.image_engine import DockerImages
from allocator.image_fetch import ImageFetcher
from allocator.image_messages import IMAGE_PROTOCOL, LAYERS_TARGET, ImageRequest
from allocator.image_network import ImageNetwork
from allocator.image_shelf import Shelf
from allocator.image_source import ImageSource
from allocator.instances import Instances
from allocator.keeper import Keeper
from allocator.leases import LeaseDesk
from allocator.metrics import AllocatorMetrics
from allocator.offers import Held
from allocator.policy_file import PolicyFile
from allocator.process import ProcessRuntime
from allocator.quotas import Quotas
from allocator.runtime import Capacity, Runtime
from allocator.sandbox_pool import SandboxPlan
from allocator.settings import AllocatorSettings
from allocator.standby import Bounds
from allocator.turns import PARALLEL_STARTS_PER_CORE
from overlay.advertising import advertised_hosts, host_port
from overlay.allocation import (
    ALLOCATE_PROTOCOL,
    OFFER_PROTOCOL,
    AllocateReply,
    AllocateRequest,
    AllocationRefusal,
    Offer,
    OfferRequest,
)
from overlay.calls import CallRefused, serve_calls
from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.errors import MalformedMessage, SignatureInvalid
from overlay.http.carried import HTTP_PROTOCOL
from overlay.labels import parse_labels
from overlay.listeners import listen_near, port_of
from overlay.names import PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.quota import QUOTA_PROTOCOL, Quota, QuotaRequest
from overlay.records import PeerRecord, Role
from overlay.revision import Revision, SignedRevision
from overlay.settings import split_address

DEFAULT_METRICS_ADDR = ":9101"

RESOLVE_TIMEOUT_S = 1.0
"""How long a registry is asked about a name that is new here; a start does not depend on it."""

ROOM_PERIOD_S = 0.25
"""What is left is told so long after a change, when the start that made it is mostly over, as all
peers work on it. A caller's view of it is only where it asks first."""

log = structlog.get_logger()


async def run(settings: AllocatorSettings, *, ready: Callable[[Node], None] | None = None) -> None:
    """Serve until cancelled; instances are then drained and removed within some seconds.

    Args:
        settings: the daemon's settings.
        ready: called once allocate calls are answered.

    Raises:
        AddressTaken: the gateway's port is in use; says by whom.
        SettingsInvalid: the policy file cannot be used.
        RuntimeDown: Docker was asked for and does not answer.
    """
    policy = PolicyFile(settings.policy)
    host, port = split_address(settings.gateway_listen_addr, "0.0.0.0")  # noqa: S104
    exact = "gateway_listen_addr" in settings.model_fields_set
    listener = await listen_near(host, port, what="the gateway", exact=exact)
    async with (
        open_node(settings, Role.ALLOCATOR, default_metrics_addr=DEFAULT_METRICS_ADDR) as node,
        _open_runtimes(settings, node) as runtimes,
    ):
        gateways = settings.gateway_announce or tuple(
            host_port(h, port_of(listener)) for h in advertised_hosts(host)
        )
        daemon = _Daemon(settings, node, runtimes, gateways, policy)
        async with trio.open_nursery() as nursery:
            await daemon.start(nursery, listener)
            if ready is not None:
                ready(node)
            notify("READY=1")
            log.info("allocator.ready", peer=node.peer_id, gateway=gateways, runtimes=[*runtimes])


@asynccontextmanager
async def _open_runtimes(
    settings: AllocatorSettings, node: Node
) -> AsyncIterator[Mapping[str, Runtime]]:
    """Yield the runtimes by name; they run until the block has ended, its cleanup included."""
    runtimes: dict[str, Runtime] = {}
    if settings.runtime in {"auto", "docker"}:
        runtimes["docker"] = DockerRuntime(
            Ownership(node.keys.network_id, node.peer_id), _sandbox_plan(settings, node.peer_id)
        )
    if settings.runtime in {"auto", "process"}:
        directory = settings.state_dir / "instances" / node.peer_id
        runtimes["process"] = ProcessRuntime(directory, delegated())
    async with trio.open_nursery() as nursery:
        scopes = [await nursery.start(_hold, runtime.run) for runtime in runtimes.values()]
        try:
            problem = "" if settings.runtime != "docker" else runtimes["docker"].health().problem
            if problem:
                raise RuntimeDown(problem)
            yield runtimes
        finally:
            for scope in scopes:
                scope.cancel()


async def _hold(
    run: Callable[..., Awaitable[None]],
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run `run`; once it has started only its own scope, which is reported, ends it."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            scope.shield = True
            task_status.started(scope)


@dataclass(slots=True)
class _Daemon:
    """The parts of one allocator."""

    settings: AllocatorSettings
    node: Node
    runtimes: Mapping[str, Runtime]
    gateways: Sequence[str]
    policy: PolicyFile
    definitions: Definitions = field(init=False)
    instances: Instances = field(init=False)
    images: "_Images | None" = field(init=False, default=None)
    metrics: AllocatorMetrics = field(init=False)
    limits: Limits = field(init=False)
    quotas: Quotas = field(init=False)
    _held: Held = field(default_factory=Held)
    _room_change: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        node, settings = self.node, self.settings
        self.definitions = Definitions(node, settings.state_dir)
        self.quotas = Quotas(self.definitions.get)
        self.metrics = AllocatorMetrics(node.metrics)
        self.limits = _limits(settings, self._capacity())
        policy = Policy(
            node.keys.is_open,
            settings.allow_any,
            lambda: allowed_keys(settings.admin),
            self.policy.rules,
        )
        self.instances = Instances(
            self.runtimes,
            Ledger(self.limits, policy.quota),
            policy,
            node,
            self.metrics,
            standby=Bounds(
                memory_mib=settings.standby_memory_mib or self.limits.memory_mib // 4,
                instances=settings.standby_instances,
            ),
            known=self.definitions.get,
            elsewhere=self._elsewhere,
            room_changed=lambda _: self._room_change.set(),
            proxy_port=settings.proxy_port,
            parallel_starts=settings.parallel_starts or _starts_at_once(self._capacity()),
        )

    async def start(self, nursery: trio.Nursery, listener: trio.SocketListener) -> None:
        """Start everything; it is reachable when this returns."""
        node = self.node
        await nursery.start(self.definitions.run)
        await nursery.start(self.instances.run)
        await self._start_images(nursery)
        gateway = Gateway(
            self.instances,
            node.tls,
            self._is_member,
            node.view.is_member,
            node.changed,
            self.metrics,
        )
        node.banned.append(lambda _, record: gateway.cut(record.certificate) if record else None)
        if self.images is not None:
            gateway.own[LAYERS_TARGET] = self.images.source.serve
        await nursery.start(gateway.serve, listener)
        node.host.handle_bytes(HTTP_PROTOCOL, gateway.serve_carried)
        node.load = self.instances.use.load
        node.status = self._status
        node.wants["lease"] = LeaseDesk(self.instances, self._containers()).serve
        serve_calls(node.host, ALLOCATE_PROTOCOL, AllocateRequest, self._allocate)
        serve_calls(node.host, OFFER_PROTOCOL, OfferRequest, self._offer)
        serve_calls(node.host, QUOTA_PROTOCOL, QuotaRequest, self._count)
        self._publish()
        nursery.start_soon(self._keep_published)
        nursery.start_soon(self._follow_definitions)
        keeper = Keeper(
            node.peer_id, self.instances, self.definitions, self._allocators, node.view.instances
        )
        nursery.start_soon(keeper.run)
        for runtime in self.runtimes.values():
            nursery.start_soon(self._follow_health, runtime)

    async def _start_images(self, nursery: trio.Nursery) -> None:
        """Fetch images from peers, and hand them on, where there is an engine."""
        docker = self.runtimes.get("docker")
        if not isinstance(docker, DockerRuntime):
            return
        self.images = images = _open_images(self)
        docker.fetch = images.fetcher.fetch
        serve_calls(self.node.host, IMAGE_PROTOCOL, ImageRequest, images.source.answer)
        nursery.start_soon(images.shelf.run)

    async def _allocate(self, peer: PeerId, request: AllocateRequest) -> AllocateReply:
        """Answer an allocate call.

        Raises:
            CallRefused: with a code of `AllocationRefusal`, and the log's end where there is one.
        """
        try:
            given = SignedRevision.verified(request.revision)
        except (MalformedMessage, SignatureInvalid) as exc:
            raise CallRefused(AllocationRefusal.BAD_REVISION, str(exc)) from exc
        log.debug("allocate", peer=peer, service=given.revision.name, id=request.request_id)
        self._held.taken(peer, given.revision.name, given.revision.number)
        await self._learn(given.revision, peer)
        if self.images is not None:
            self.images.network.heard(given)
        unmet = check_constraints(given.revision.spec, self.node.record.called)
        if isinstance(unmet, Refusal):
            raise CallRefused(unmet.code, unmet.text)
        try:
            allocated = await self.instances.allocate(
                given, request.exclude, request.request_id, caller=peer
            )
        except AllocatorError as exc:
            details = {"log": exc.log} if exc.log else {}
            raise CallRefused(exc.code, str(exc), details) from exc
        return AllocateReply(instance=allocated.record, phases=dict(allocated.phases))

    async def _offer(self, peer: PeerId, request: OfferRequest) -> Offer:
        """Say what a start would meet here."""
        instances = self.instances
        standing = instances.standing(request.service, request.revision)
        before, room = 0, instances.room()
        if not (standing.ready or standing.starting or standing.resume_s is not None):
            room, before = self._held.offer(peer, request, room, trio.current_time())
        images = self.node.record.images
        return Offer(
            room=room,
            ahead=standing.ahead + before,
            ready=standing.ready,
            starting=standing.starting,
            resume_s=standing.resume_s,
            image=request.image is None or request.image in images,
        )

    async def _count(self, _: PeerId, request: QuotaRequest) -> Quota:
        """Say how many requests a proxy may let through of a service with a global rate limit.

        Raises:
            CallRefused: it has none that is known here.
        """
        quota = self.quotas.take(request, trio.current_time())
        if quota is None:
            raise CallRefused("no_limit", f"{request.service} has no global rate limit here")
        return quota

    async def _learn(self, given: Revision, peer: PeerId) -> None:
        """Ask a registry about a name that is new here, so that nobody can take another's.

        Raises:
            CallRefused: there is no such service, and whoever kept a deleted one's revision shows
                it; or this peer shows too many that nobody knows.
        """
        if self.definitions.get(given.name) is not None:
            return
        with trio.move_on_after(RESOLVE_TIMEOUT_S):
            try:
                await self.definitions.resolve(given.name, peer, ask_again=True)
            except UnknownService as exc:
                raise CallRefused(AllocationRefusal.BAD_REVISION, str(exc)) from exc
            except LookupsBusy as exc:
                raise CallRefused(AllocationRefusal.BUSY, str(exc)) from exc
            except RegistryUnreachable as exc:
                log.info("definition.unknown", service=given.name, error=str(exc))

    async def _follow_definitions(self) -> None:
        """Drain the instances of services that were changed or deleted."""
        async with trio.open_nursery() as asking:
            while True:
                for service in self.instances.services():
                    newest = self.definitions.get(service)
                    if newest is not None:
                        self.instances.drain_outdated(service, newest.revision.number)
                    elif self.definitions.live:
                        asking.start_soon(self._drain_if_deleted, service)
                await self.definitions.changed()

    async def _drain_if_deleted(self, service: ServiceName) -> None:
        """Drain a service that a registry does not know; ours may only not be here yet."""
        try:
            await self.definitions.resolve(service, ask_again=True)
        except UnknownService:
            self.instances.drain_outdated(service, None)
        except (RegistryUnreachable, LookupsBusy) as exc:
            log.info("definition.unknown", service=service, error=str(exc))

    async def _follow_health(self, runtime: Runtime) -> None:
        while True:
            await runtime.health_changed()
            self._room_change.set()

    async def _keep_published(self) -> None:
        while True:
            await self._room_change.wait()
            await trio.sleep(ROOM_PERIOD_S)
            self._room_change = trio.Event()
            self._publish()

    def _publish(self) -> None:
        self.node.set_peer(
            gateway=tuple(self.gateways),
            room=self.instances.room(),
            runtimes=tuple(n for n, r in self.runtimes.items() if r.health().usable),
            platform=self._capacity().platform,
            images=tuple(d for r in self.runtimes.values() for d in r.health().images),
            labels=parse_labels(self.settings.labels),
        )

    def _capacity(self) -> Capacity:
        """Return the engine's machine where there is one, else this one."""
        for runtime in self.runtimes.values():
            if runtime.health().usable:
                return runtime.capacity()
        return ProcessRuntime(self.settings.state_dir).capacity()

    def _containers(self) -> EngineContainers:
        docker = self.runtimes.get("docker")
        found = docker if isinstance(docker, DockerRuntime) else None
        return EngineContainers(self.instances, found)

    def _is_member(self, pin: str) -> bool:
        return bool(pin) and self.node.view.by_certificate(pin) is not None

    def _allocators(self) -> dict[PeerId, PeerRecord]:
        others = self.node.view.peers(Role.ALLOCATOR)
        return {self.node.peer_id: self.node.record} | {p.peer_id: p.record for p in others}

    def _elsewhere(self, service: ServiceName) -> int:
        instances = self.node.view.instances(service)
        return sum(i.owner != self.node.peer_id for i in instances)

    def _status(self) -> dict[str, Any]:
        room = self.instances.room()
        docker = self._containers().docker
        return {
            "gateway": list(self.gateways),
            "runtimes": [
                {
                    "name": name,
                    "usable": runtime.health().usable,
                    "problem": runtime.health().problem,
                    "unenforced": list(runtime.health().unenforced),
                }
                for name, runtime in self.runtimes.items()
            ],
            "sandboxes": {} if docker is None else docker.sandboxes.status(),
            "images": {} if self.images is None else self.images.status(),
            "policy": self.policy.status(),
            "room": room.model_dump(),
            "capacity": {
                "cpu_millicores": self.limits.cpu_millicores,
                "memory_mib": self.limits.memory_mib,
                "instances": self.limits.instances,
            },
        } | self.instances.status()


def _sandbox_plan(settings: AllocatorSettings, peer: PeerId) -> SandboxPlan:
    """Return how sandboxes are made; the directory's name is short, as a socket's path must be."""
    return SandboxPlan(
        size=settings.sandboxes,
        directory=settings.state_dir / "sandboxes" / peer[-8:],
        proxy_port=settings.proxy_port,
    )


def _starts_at_once(capacity: Capacity) -> int:
    return PARALLEL_STARTS_PER_CORE * max(1, capacity.cpu_millicores // 1000)


@dataclass(frozen=True, slots=True)
class _Images:
    """What has to do with images."""

    network: ImageNetwork
    shelf: Shelf
    fetcher: ImageFetcher
    source: ImageSource

    def status(self) -> dict[str, Any]:
        return {
            "fetching": self.fetcher.status(),
            "fetched_bytes": self.shelf.held_bytes,
            "kept_for_others_bytes": self.source.kept_bytes,
        }


def _open_images(daemon: _Daemon) -> _Images:
    settings, instances, metrics = daemon.settings, daemon.instances, daemon.metrics
    folder = settings.state_dir / "images" / daemon.node.peer_id
    engine = DockerImages()
    network = ImageNetwork(daemon.node, daemon.definitions)
    shelf = Shelf(
        engine,
        folder / "fetched.json",
        settings.image_disk_mib * MIB,
        in_use=instances.images,
        registered=network.registered,
    )
    fetcher = ImageFetcher(engine, network, shelf, folder / "coming", metrics.image_bytes)
    source = ImageSource(
        engine,
        network.named,
        folder / "saved",
        settings.image_cache_mib * MIB,
        partial(metrics.image_bytes, "sent"),
    )
    return _Images(network, shelf, fetcher, source)


def _limits(settings: AllocatorSettings, capacity: Capacity) -> Limits:
    return Limits(
        cpu_millicores=settings.cpu_millicores or capacity.cpu_millicores,
        memory_mib=settings.memory_mib or capacity.memory_mib,
        instances=settings.max_instances,
        instances_per_author=settings.max_instances_per_owner,
    )
