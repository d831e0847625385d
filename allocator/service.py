"""The allocator daemon: wires runtimes, instances, gateway and leases to the overlay's node.

What must outlive what, from the outside in: the node, so that the network hears of the end; the
runtimes, so that instances can be removed; the instances; the gateway and the allocate call. A stop
takes them down from the inside out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from allocator.engine.docker import DockerRuntime
from allocator.image_hub import ImageHub, open_images
from allocator.images.messages import IMAGE_PROTOCOL, LAYERS_TARGET, ImageRequest
from allocator.instances.instances import Instances
from allocator.instances.keeper import Keeper
from allocator.instances.outdated import Outdated
from allocator.metrics import AllocatorMetrics
from allocator.processes.runtime import ProcessRuntime
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.rules.allowed import allowed_keys
from allocator.rules.policy import KEPT_SHARE
from allocator.rules.policy_file import PolicyFile
from allocator.rules.standby import Bounds
from allocator.rules.turns import PARALLEL_STARTS_PER_CORE
from allocator.runtime import Capacity, Runtime
from allocator.runtimes import open_runtimes
from allocator.serving.containers import EngineContainers
from allocator.serving.gateway import Gateway
from allocator.serving.leases import LeaseDesk
from allocator.serving.quotas import Quotas
from allocator.serving.requests import Requests
from allocator.serving.tunnels import TunnelDoor
from allocator.settings import AllocatorSettings
from overlay.advertising import advertised_hosts, host_port
from overlay.allocation import (
    ALLOCATE_PROTOCOL,
    OFFER_PROTOCOL,
    AllocateRequest,
    OfferRequest,
)
from overlay.calls import serve_calls
from overlay.definitions import Definitions
from overlay.http.carried import HTTP_PROTOCOL
from overlay.labels import parse_labels
from overlay.listeners import listen_near, port_of
from overlay.names import Digest, PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.quota import QUOTA_PROTOCOL, QuotaRequest
from overlay.records import PeerRecord, Role
from overlay.settings import split_address
from overlay.tunnel import TARGET as TUNNEL_TARGET

DEFAULT_METRICS_ADDR = ":9101"

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
        open_runtimes(settings, node.keys.network_id, node.peer_id) as runtimes,
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
    images: ImageHub | None = field(init=False, default=None)
    requests: Requests = field(init=False)
    metrics: AllocatorMetrics = field(init=False)
    limits: Limits = field(init=False)
    keeper: Keeper = field(init=False)
    _room_change: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        node, settings = self.node, self.settings
        self.definitions = Definitions(node, settings.state_dir)
        self.metrics = AllocatorMetrics(node.metrics)
        self.limits = _limits(settings, self._capacity())
        policy = Policy(
            node.keys.is_open,
            settings.allow_any,
            lambda: allowed_keys(settings.admin),
            self.policy.rules,
        )
        docker = self.runtimes.get("docker")
        if isinstance(docker, DockerRuntime):
            docker.rests_on_name = policy.rests_on_name
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
        self.requests = Requests(node, self.instances, self.definitions, policy.allowed)
        self.keeper = Keeper(
            node.peer_id,
            self.instances,
            self.definitions,
            self._allocators,
            node.view.instances,
            policy.most_kept,
            self.limits.instances // KEPT_SHARE,
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
        desk = LeaseDesk(self.instances, self._containers())
        gateway.own[TUNNEL_TARGET] = TunnelDoor(self.instances, desk.leads_on).serve
        if self.images is not None:
            gateway.own[LAYERS_TARGET] = self.images.source.serve
        await nursery.start(gateway.serve, listener)
        node.host.handle_bytes(HTTP_PROTOCOL, gateway.serve_carried)
        node.load = self.instances.use.load
        node.status = self._status
        node.wants["lease"] = desk.serve
        serve_calls(node.host, ALLOCATE_PROTOCOL, AllocateRequest, self.requests.allocate)
        serve_calls(node.host, OFFER_PROTOCOL, OfferRequest, self.requests.offer)
        serve_calls(node.host, QUOTA_PROTOCOL, QuotaRequest, Quotas(self.definitions.get).answer)
        self._publish()
        nursery.start_soon(self._keep_published)
        nursery.start_soon(Outdated(self.instances, self.definitions).run)
        nursery.start_soon(self.keeper.run)
        for runtime in self.runtimes.values():
            nursery.start_soon(self._follow_health, runtime)

    async def _start_images(self, nursery: trio.Nursery) -> None:
        """Fetch images from peers, and hand them on, where there is an engine."""
        docker = self.runtimes.get("docker")
        if not isinstance(docker, DockerRuntime):
            return
        self.images = images = open_images(
            self.settings, self.node, self.definitions, self.instances, self.metrics
        )
        self.instances.admitted = images.services.heard
        docker.fetch = images.fetcher.fetch
        serve_calls(self.node.host, IMAGE_PROTOCOL, ImageRequest, images.source.answer)
        nursery.start_soon(images.run, self._tell_images)

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
            ungreeted=True,
            room=self.instances.room(),
            runtimes=tuple(n for n, r in self.runtimes.items() if r.health().usable),
            platform=self._capacity().platform,
            images=self._told_images(),
            labels=parse_labels(self.settings.labels),
        )

    def _told_images(self) -> tuple[Digest, ...]:
        """Return the images that others hear of."""
        held = (image for runtime in self.runtimes.values() for image in runtime.health().images)
        return () if self.images is None else self.images.told(held)

    def _tell_images(self) -> None:
        """Publish what others hear of images if that is something else now."""
        if self._told_images() != self.node.record.images:
            self._room_change.set()

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
            "not_kept": self.keeper.status(),
            "room": room.model_dump(),
            "capacity": {
                "cpu_millicores": self.limits.cpu_millicores,
                "memory_mib": self.limits.memory_mib,
                "instances": self.limits.instances,
            },
        } | self.instances.status()


def _starts_at_once(capacity: Capacity) -> int:
    return PARALLEL_STARTS_PER_CORE * max(1, capacity.cpu_millicores // 1000)


def _limits(settings: AllocatorSettings, capacity: Capacity) -> Limits:
    return Limits(
        cpu_millicores=settings.cpu_millicores or capacity.cpu_millicores,
        memory_mib=settings.memory_mib or capacity.memory_mib,
        instances=settings.max_instances,
        instances_per_author=settings.max_instances_per_owner,
    )
