"""The registry daemon: a store, the feed that follows it, and the calls that it answers."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog
import trio

from overlay.calls import CallRefused, serve_calls
from overlay.errors import MyxoError
from overlay.names import PeerId
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.records import Role
from overlay.registry_messages import (
    REGISTRY_PROTOCOL,
    REQUEST,
    MemberAdd,
    MemberAdded,
    RegistryRefusal,
)
from registry.errors import StoreMisused, StoreUnavailable
from registry.etcd import open_etcd
from registry.etcd_cluster import members
from registry.etcd_gateway import EtcdGateway
from registry.etcd_member import LocalMember, check_member, run_member
from registry.feed import Feed
from registry.protocol import RegistryMetrics, RegistryProtocol
from registry.settings import DEFAULT_ETCD_IP, RegistrySettings
from registry.sqlite import open_sqlite
from registry.store import Store

DEFAULT_METRICS_ADDR = ":9102"

OTHERS_TIMEOUT_S = 3.0
"""For a registry peer that the bootstrap told of to be connected, or found dead."""

MEMBER_ADD_TIMEOUT_S = 15.0

log = structlog.get_logger()


async def run(settings: RegistrySettings, *, ready: Callable[[Node], None] | None = None) -> None:
    """Serve as a registry peer until cancelled.

    Args:
        settings: the daemon's settings.
        ready: called once definitions can be asked for.

    Raises:
        SettingsInvalid: flags contradict each other, or cannot be used on this machine.
        StoreMisused: the network has a registry that this one does not go with.
        StoreUnavailable: the store does not answer at the start.
    """
    settings.check()
    protocol: RegistryProtocol | None = None

    def prepare(node: Node) -> None:
        nonlocal protocol

        def is_registry(peer: PeerId) -> bool:
            return any(p.peer_id == peer for p in node.view.peers(Role.REGISTRY))

        protocol = RegistryProtocol(RegistryMetrics(node.metrics), is_registry)
        serve_calls(node.host, REGISTRY_PROTOCOL, REQUEST, protocol.serve)

    async with (
        open_node(
            settings,
            Role.REGISTRY,
            default_metrics_addr=DEFAULT_METRICS_ADDR,
            record={"runtimes": (settings.store_kind,)},
            prepare=prepare,
        ) as node,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        await _refuse_strangers(node, settings)
        store = await _open_store(node, settings, nursery, stack)
        feed = Feed(store)
        await nursery.start(feed.run)
        if protocol is not None:
            protocol.open(store, feed)
        node.status = lambda: {"store": settings.store_kind, "services": len(feed)}
        log.info("registry.ready", peer=node.peer_id, store=settings.store_kind, services=len(feed))
        if ready is not None:
            ready(node)
        notify("READY=1")
        await trio.sleep_forever()


async def _refuse_strangers(node: Node, settings: RegistrySettings) -> None:
    """Go on only if every other registry peer of the network shares this one's store.

    Raises:
        StoreMisused: with the line to type instead.
    """
    await _meet_registries(node)
    others = node.view.peers(Role.REGISTRY)
    on_etcd = [p for p in others if "etcd" in p.record.runtimes]
    on_sqlite = [p for p in others if "sqlite" in p.record.runtimes]
    if on_sqlite:
        host = on_sqlite[0].record.host
        raise StoreMisused(
            f"the network has a registry-service with SQLite already, on {host}, and it can be the "
            "only one. To have several, stop it and run on the first machine: registry-service "
            f"--new-etcd-cluster --etcd-ip IP{_bootstraps(settings)} — and on each other one the "
            "same without --new-etcd-cluster"
        )
    if on_etcd and settings.store_kind == "sqlite":
        raise StoreMisused(
            f"the network's registry-service on {on_etcd[0].record.host} keeps definitions in "
            "etcd, so this one must join it: registry-service --etcd-ip "
            f"{_own_ip(node)}{_bootstraps(settings)}"
        )


async def _meet_registries(node: Node) -> None:
    with trio.move_on_after(OTHERS_TIMEOUT_S):
        while True:
            records = {p: node.view.peer(p) for p in node.view.known() if p != node.peer_id}
            told = {p for p, r in records.items() if r is not None and r.role is Role.REGISTRY}
            if told <= {p.peer_id for p in node.view.peers(Role.REGISTRY)}:
                return
            await node.changed()


async def _open_store(
    node: Node, settings: RegistrySettings, nursery: trio.Nursery, stack: AsyncExitStack
) -> Store:
    network_id = node.keys.network_id
    if settings.store_kind == "sqlite":
        path = settings.state_dir / "registry" / f"{network_id}.sqlite3"
        return await stack.enter_async_context(open_sqlite(path, admin=_admin(settings)))
    endpoints = settings.etcd
    if settings.runs_member:
        endpoints = await _start_member(node, settings, nursery)
    return await open_etcd(
        settings.etcd_access(endpoints), network_id=network_id, admin=_admin(settings)
    )


async def _start_member(
    node: Node, settings: RegistrySettings, nursery: trio.Nursery
) -> tuple[str, ...]:
    """Start the local member and return the endpoints of the cluster, its own first."""
    member = LocalMember(
        settings.etcd_ip or DEFAULT_ETCD_IP,
        settings.etcd_client_port,
        settings.etcd_peer_port,
        settings.state_dir / "registry",
    )
    check_member(member)
    joins = not settings.new_etcd_cluster and not member.has_data
    cluster = await _ask_to_join(node, member) if joins else ""
    await nursery.start(
        lambda task_status: run_member(member, cluster, new=not joins, task_status=task_status)
    )
    known = await members(EtcdGateway(settings.etcd_access((member.client_url,))))
    others = [url for m in known for url in m.client_urls if url != member.client_url]
    return (member.client_url, *others)


async def _ask_to_join(node: Node, member: LocalMember) -> str:
    request = MemberAdd(name=member.name, peer_url=member.peer_url)
    troubles = []
    for peer in node.view.peers(Role.REGISTRY):
        try:
            reply = await node.calls.call(
                peer.peer_id,
                REGISTRY_PROTOCOL,
                request,
                MemberAdded,
                timeout_s=MEMBER_ADD_TIMEOUT_S,
            )
        except CallRefused as exc:
            if exc.code == RegistryRefusal.NOT_ALLOWED:
                raise StoreMisused(exc.text) from exc
            troubles.append(f"{peer.record.host}: {exc.text}")
        except MyxoError as exc:
            troubles.append(f"{peer.record.host}: {exc}")
        else:
            return reply.initial_cluster
    if troubles:
        raise StoreUnavailable("no registry peer let this etcd in: " + "; ".join(troubles))
    raise StoreMisused(
        "--etcd-ip without --new-etcd-cluster joins another registry-service's etcd, and there is "
        "none in this network: add --new-etcd-cluster to start the first"
    )


def _admin(settings: RegistrySettings) -> PeerId | None:
    return PeerId(settings.admin) if settings.admin else None


def _bootstraps(settings: RegistrySettings) -> str:
    return "".join(f" --bootstrap {address}" for address in settings.bootstraps)


def _own_ip(node: Node) -> str:
    address = next(iter(node.record.addresses), "")
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else "IP"  # noqa: PLR2004
