"""What a node is wired of: its host and sockets, its mesh, its gate, its metrics.

`node.py` puts these together, and says what a node does as a whole.
"""

import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio
from prometheus_client import ProcessCollector

from overlay.announcing import Announcer
from overlay.errors import AddressTaken, SettingsInvalid, SignatureInvalid
from overlay.gate import Gate
from overlay.host import Host, open_host
from overlay.identity import Identity, public_key_of
from overlay.listeners import listen_near, port_of
from overlay.mesh import Mesh
from overlay.metrics import (
    DatagramMetrics,
    MembershipMetrics,
    PeerMetrics,
    RecordMetrics,
    serve_metrics,
)
from overlay.names import PeerId
from overlay.probing import Probing
from overlay.records import Role
from overlay.remembered import Remembered
from overlay.roster import KeptRoster
from overlay.sealing import Sealer
from overlay.settings import NodeSettings, split_address
from overlay.traversal import Traversal
from overlay.trust import Trust, open_trust
from overlay.trust_desk import TrustDesk
from overlay.udp import bind_beside

if TYPE_CHECKING:
    from overlay.node import Node

log = structlog.get_logger()


def mesh_of(
    node: "Node",
    settings: NodeSettings,
    sealer: Sealer,
    sockets: list[socket.socket],
    rng: random.Random,
    remembered: Remembered | None,
) -> Mesh:
    """Return what keeps a node's view true: membership, gossip, and announcements."""
    bootstraps = [b for b in settings.bootstraps if not b.endswith(f"/p2p/{node.peer_id}")]
    seen_by_itself = node.role is not Role.CLIENT and settings.reachable != "no"
    announcer = Announcer(
        node.announcements,
        bootstraps if seen_by_itself else (),
        own=node.own_forms,
        knows=lambda peer: node.view.peer(peer) is not None,
    )
    probing = Probing(
        node.view,
        sealer,
        sockets,
        node.reach,
        announcer,
        load=lambda: node.load(),  # noqa: PLW0108  (the hook may be replaced later)
    )
    node.metrics.register(
        DatagramMetrics(probing.udp.counts, sealer.dropped, node.announcements.unheeded)
    )
    return Mesh(
        node.host,
        node.view,
        node.role,
        bootstraps,
        probing,
        node.reach,
        rng,
        remembered=tuple if remembered is None else remembered.addresses,
        changed=node.signal,
        disconnected=lambda peer: node.calls.forget(peer),  # noqa: PLW0108  (it may be replaced)
    )


def traversal_of(node: "Node", settings: NodeSettings, rng: random.Random) -> Traversal:
    """Return what finds out how a node is reached, and keeps it within reach."""
    announced = bool(settings.announce) and settings.reachable == "auto"
    return Traversal(
        node.host,
        node.view,
        node.role,
        "yes" if announced else settings.reachable,
        connect=node.reach.connect,
        publish=lambda addresses: node.set_peer(addresses=addresses),
        random=rng,
    )


def remembered_by(settings: NodeSettings, role: Role, node: "Node") -> Remembered | None:
    """Return the peers of an earlier time; None for who keeps none."""
    if settings.ephemeral or role is Role.CLIENT:
        return None
    return Remembered(settings.state_dir, node.keys.network_id, node.peer_id)


def trust_of(settings: NodeSettings, role: Role, identity: Identity) -> Trust:
    """Return the gate of a peer as its settings say.

    Raises:
        SettingsInvalid: the admin is no key.
    """
    admin = PeerId(settings.admin) if settings.admin else None
    try:
        if admin is not None:
            public_key_of(admin)
    except SignatureInvalid as exc:
        raise SettingsInvalid(f"--admin: {exc}") from exc
    durable = role is not Role.CLIENT and not settings.ephemeral
    return open_trust(identity.peer_id, admin, settings.psk, settings.state_dir, durable=durable)


async def serve_trust(
    node: "Node", settings: NodeSettings, role: Role, nursery: trio.Nursery
) -> None:
    """Have the admin's statements take effect here, come in, and go out."""
    trust = node.trust
    trust.banned = node.shut_out
    trust.changed = node.follow_trust
    await nursery.start(node.spreading.run)
    if role is Role.CLIENT:
        return
    file = f"{node.keys.network_id}-{node.peer_id}.json"
    path = None if settings.ephemeral else settings.state_dir / "roster" / file
    roster = KeptRoster(path, node.view)
    nursery.start_soon(roster.run)
    desk = TrustDesk(node.peer_id, trust, node.spreading, node.view, roster.all)
    node.wants["bans"] = desk.serve_bans
    node.wants["rotate"] = desk.serve_rotate


@asynccontextmanager
async def open_host_and_udp(
    settings: NodeSettings, identity: Identity, listens: list[str], gate: Gate
) -> AsyncIterator[tuple[Host, list[socket.socket]]]:
    """Open the host, and UDP beside it.

    A default port that is taken gives way to any free one, a given one never.
    """
    exact = "p2p_listen_addr" in settings.model_fields_set or settings.fixed_p2p_port
    async with AsyncExitStack() as stack:
        try:
            host = await stack.enter_async_context(open_host(identity, listens, gate=gate))
        except AddressTaken as exc:
            if exact:
                raise
            anywhere = [a.rsplit("/", 1)[0] + "/0" for a in listens]
            host = await stack.enter_async_context(open_host(identity, anywhere, gate=gate))
            _, used = host.bound_addresses()[0]
            log.warning("port.moved", what="p2p", used=used, because=str(exc))
        sockets = bind_beside(host.bound_addresses())
        for sock in sockets:
            stack.enter_context(sock)
        yield host, sockets


async def serve_node_metrics(
    node: "Node", settings: NodeSettings, default_addr: str, nursery: trio.Nursery
) -> None:
    """Serve what a node counts, if its settings say where, or there is a default."""
    wanted = settings.prom_listen_addr or default_addr
    if not wanted:
        return
    host, port = split_address(wanted, "0.0.0.0")  # noqa: S104
    exact = bool(settings.prom_listen_addr)
    listener = await listen_near(host, port, what="metrics", exact=exact)
    node.metrics_port = port_of(listener)
    ProcessCollector(registry=node.metrics)
    for collector in (
        PeerMetrics(node.view),
        MembershipMetrics(node.view.membership),
        RecordMetrics(node.view.records),
    ):
        node.metrics.register(collector)

    async def before() -> None:
        await node.before_scrape()

    nursery.start_soon(serve_metrics, node.metrics, listener, before)
