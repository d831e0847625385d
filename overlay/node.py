"""What every daemon runs on: identity, host, view, mesh, calls, metrics and control socket.

A node is opened, used and left:

    async with open_node(settings, Role.PROXY, name="4200") as node:
        node.set_peer(gateway=("10.0.0.1:4443",))
        …

Inside the block the node is a member, its own record is published, and it keeps itself so. At the
end it says goodbye, so that nobody has to find out.
"""

import functools
import random
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from overlay.addresses import InvalidAddress, is_circuit, parse_address
from overlay.advertising import advertised_hosts, machine_id, system_hostname, to_multiaddr
from overlay.announcements import Announcements, essentials
from overlay.calls import Caller
from overlay.compaction import Compaction
from overlay.control import ControlConnection, serve_control
from overlay.distances import serve_distances, serve_pair
from overlay.errors import MyxoError, SettingsInvalid
from overlay.host import Host
from overlay.identity import Identity
from overlay.mesh import Mesh
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.node_status import node_status
from overlay.passphrase import NetworkKeys
from overlay.probing import open_membership
from overlay.reach import Reach
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Version,
    sign_record,
)
from overlay.sealing import Sealer
from overlay.settings import NodeSettings, control_path, split_address
from overlay.signed import Signed
from overlay.spreading import Spreading
from overlay.state_dir import next_epoch, open_state_dir, own_identity
from overlay.tls import PeerTls, open_tls
from overlay.trust import Trust
from overlay.udp import bound_port
from overlay.view import View
from overlay.watching import changes_of
from overlay.wiring import (
    mesh_of,
    open_host_and_udp,
    remembered_by,
    serve_node_metrics,
    serve_trust,
    traversal_of,
    trust_of,
)

LEAVE_TIMEOUT_S = 1.0

DATAGRAM_NETWORK = b"myxo/datagrams/1"
"""What pairs of keys are bound to. Not the passphrase: that may be changed while daemons run, and
who does not know it holds no record, in which the keys are."""

INTRODUCTION_S = 5.0
"""How long a peer that joins waits to hear from one other who is banned and which network this is.
It has just been told all records, so this takes a round trip or two; who goes on without files what
it keeps under a wrong name, if the passphrase was ever changed."""


@dataclass(slots=True)
class Node:
    """A member of the network.

    Attributes:
        identity: the daemon's key and peer id.
        keys: what the passphrase in force gives.
        trust: bans and passphrases, as the network's admin states them.
        banned: called with each peer that is banned from now on, and what it said of itself, if
            anything; by then it is in no view.
        host: the libp2p host.
        reach: opens streams to peers, connecting first where that is needed.
        calls: makes calls to peers.
        spreading: tells others of bans and passphrases.
        announcements: seals this peer's record for those who cannot hold it yet, and opens theirs.
        view: what this peer believes of the network.
        tls: contexts and pin for the gateway road.
        metrics: the registry behind `/metrics`.
        metrics_port: where it is served; None if it is not.
        load: returns what is in flight on own instances; rides on probe answers.
        wants: what the control socket offers beside `status`; filled before the node serves.
        status: adds to what `myxo status` shows of this daemon.
        before_scrape: called before `/metrics` is answered.
    """

    identity: Identity
    keys: NetworkKeys
    trust: Trust
    host: Host
    view: View
    tls: PeerTls
    metrics: CollectorRegistry
    role: Role
    hostname: str
    reach: Reach
    calls: Caller
    spreading: Spreading
    epoch: float
    announcements: Announcements
    metrics_port: int | None = None
    load: Callable[[], dict[InstanceId, int]] = dict
    status: Callable[[], Mapping[str, Any]] = dict
    before_scrape: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    wants: dict[str, Callable[[ControlConnection], Awaitable[None]]] = field(default_factory=dict)
    banned: list[Callable[[PeerId, PeerRecord | None], None]] = field(default_factory=list)
    _mesh: Mesh | None = None
    _authorities: list[NetworkKeys] = field(default_factory=list)
    _counter: int = 0
    _compaction: Compaction = field(default_factory=Compaction)
    _change: trio.Event = field(default_factory=trio.Event)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _over: trio.Event = field(default_factory=trio.Event)

    @property
    def peer_id(self) -> PeerId:
        """This node's peer id."""
        return self.identity.peer_id

    @property
    def record(self) -> PeerRecord:
        """What this node last said of itself."""
        record = self.view.peer(self.peer_id)
        if record is None:
            raise RuntimeError("the node has no record of its own")  # set before it is opened
        return record

    async def changed(self) -> None:
        """Wait for the next change of the view."""
        await self._change.wait()

    def set_peer(self, **fields: Any) -> None:
        """Publish this node's own record with `fields` changed."""
        update = {**fields, "version": self._next_peer_version()}
        self._publish(self.record.model_copy(update=update))

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
        """Publish the state of one of this node's instances; return the signed record."""
        return self._publish(
            InstanceRecord(
                version=self._next_version(),
                id=instance,
                service=service,
                revision=revision,
                state=state,
                address=address,
                concurrency=concurrency,
                resume_s=resume_s,
                healthy=healthy,
            )
        )

    def withdraw_instance(self, instance: InstanceId) -> None:
        """Publish that one of this node's instances is gone."""
        for view in self.view.all_instances():
            if view.key == (self.peer_id, instance):
                update = {"withdrawn": True, "version": self._next_version()}
                self._publish(view.record.model_copy(update=update))
                self._compact()
                return

    async def leave(self) -> None:
        """Tell everybody that this node goes; what was published before is sent first."""
        if self._mesh is not None:
            await self._mesh.leave()

    async def withdraw(self) -> None:
        """End here and say nothing: another process goes on under this identity.

        Ports and sockets are free when this returns. What the node knew can still be read.
        """
        self._mesh = None
        self._scope.cancel()
        await self._over.wait()

    def take(self, signed: Signed) -> None:
        """Take in another peer's record that came by another way than gossip.

        Raises:
            RecordRefused: see `View.apply`.
        """
        if self.view.apply(signed, time.time()) is not None:
            self.signal()

    def shut_out(self, peer: PeerId) -> None:
        """Forget a peer that was banned; the gate keeps it out."""
        record = self.view.peer(peer)
        if self._mesh is not None:
            self._mesh.drop(peer)
        self.calls.forget(peer)
        self.signal()
        for each in self.banned:
            each(peer, record)

    def follow_trust(self) -> None:
        """Bring everything that was made from a passphrase, or under the gate, in step with it."""
        if self.keys != self.trust.keys or self._authorities != self.trust.trusted_authorities():
            self.keys, self._authorities = self.trust.keys, self.trust.trusted_authorities()
            self.tls.renew(self.keys, also_trusted=self._authorities)
            self.announcements.renew(self.trust.announcement_keys())
        self.host.review()
        if self.record.proof != self.trust.proof():
            self.set_peer(proof=self.trust.proof())
        for peer in self.view.known():
            record = self.view.peer(peer)
            if record is not None and not self.trust.admits(peer, record) and self._mesh:
                self._mesh.drop(peer)

    def _publish(self, record: PeerRecord | InstanceRecord) -> Signed:
        signed = sign_record(self.identity, record)
        self.view.apply(signed, time.time())
        self.signal()
        if self._mesh is not None:
            self._mesh.push([signed])
        return signed

    def _compact(self) -> None:
        """After many withdrawals, let everybody drop what was withdrawn long ago."""
        floor = self._compaction.withdrew(self._counter + 1)
        if floor is None:
            return
        for view in list(self.view.all_instances()):
            if view.owner == self.peer_id:
                self._publish(view.record.model_copy(update={"version": self._next_version()}))
        self.set_peer(floor=floor)

    def own_forms(self) -> Iterator[Signed]:
        """Yield this node's own record, then what of it is sure to fit a datagram."""
        yield from self.view.signed([(self.peer_id, "peer", "")])
        yield sign_record(self.identity, essentials(self.record))

    def _next_peer_version(self) -> Version:
        """Return the next version but one, which leaves a number for `essentials`."""
        self._counter += 1
        return self._next_version()

    def _next_version(self) -> Version:
        self._counter += 1
        return Version(epoch=self.epoch, counter=self._counter)

    def signal(self) -> None:
        """Wake whoever waits for a change of the view."""
        self._change.set()
        self._change = trio.Event()

    def _status(self) -> dict[str, Any]:
        return node_status(self) | dict(self.status())


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a node takes over from another process, whose identity it goes on under.

    Attributes:
        tls_key: of its certificate (PEM), so that gateways take both for the same peer.
        identity: its key; None where it is in the state directory.
    """

    tls_key: bytes = b""
    identity: Identity | None = None


@asynccontextmanager
async def open_node(
    settings: NodeSettings,
    role: Role,
    *,
    name: str = "",
    default_metrics_addr: str = "",
    record: Mapping[str, Any] | None = None,
    prepare: Callable[[Node], None] | None = None,
    legacy: Legacy | None = None,
) -> AsyncIterator[Node]:
    """Join or found the network and yield the node once it knows the network.

    Args:
        settings: the daemon's settings.
        role: what it does for the network.
        name: tells daemons of one role on one machine apart; part of the key file's name.
        default_metrics_addr: `[HOST]:PORT` for `/metrics`; empty serves none unless settings do.
        record: further fields of the node's first own record.
        prepare: called before the node serves anything, to register calls and control wants.
        legacy: of the process whose place it takes.

    Raises:
        SettingsInvalid, AddressTaken, PassphraseRefused: before anything was published.
    """
    refusal: MyxoError | None = None  # raised outside the nursery, which would wrap it
    async with trio.open_nursery() as nursery:
        hold = functools.partial(
            _hold_node,
            settings,
            role,
            name,
            default_metrics_addr,
            record or {},
            prepare,
            legacy or Legacy(),
        )
        try:
            node = await nursery.start(hold)
        except MyxoError as exc:
            refusal = exc
        else:
            try:
                yield node
            finally:
                with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
                    await node.leave()
                node._scope.cancel()  # noqa: SLF001
    if refusal is not None:
        raise refusal


async def _hold_node(
    settings: NodeSettings,
    role: Role,
    name: str,
    default_metrics_addr: str,
    record: Mapping[str, Any],
    prepare: Callable[[Node], None] | None,
    legacy: Legacy,
    *,
    task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until its scope is cancelled, and by nothing else.

    A daemon that is cancelled stops from the inside out: what it says last, that its instances
    drain and that it leaves, must still reach the others.
    """
    _check_bootstraps(settings.bootstraps)
    if role is not Role.CLIENT:
        open_state_dir(settings.state_dir)
    identity = legacy.identity or own_identity(settings, role, name)
    trust = trust_of(settings, role, identity)
    host_part, port = split_address(settings.p2p_listen_addr, "0.0.0.0")  # noqa: S104
    listens = [] if role is Role.CLIENT else [to_multiaddr(host_part, port)]
    over = trio.Event()
    with trio.CancelScope() as scope:
        async with (
            open_host_and_udp(settings, identity, listens, trust) as (host, sockets),
            trio.open_nursery() as nursery,
        ):
            epoch = next_epoch(settings, role, identity.peer_id)
            rng = random.Random()  # noqa: S311  (chooses whom to probe, keeps no secret)
            membership = open_membership(identity, epoch, settings.profile, rng)
            membership.observe(role is Role.CLIENT)
            view = View(
                identity.peer_id,
                machine_id(),
                membership,
                trio.lowlevel.current_clock().current_time,  # asked for each request
                refuses=trust.bans.is_banned,
            )
            view.records.admits = trust.admits
            reach = Reach(host, lambda peer: _addresses(view, peer))
            calls = Caller(reach)
            node = Node(
                identity=identity,
                keys=trust.keys,
                trust=trust,
                host=host,
                view=view,
                tls=open_tls(
                    trust.keys,
                    identity.peer_id,
                    also_trusted=trust.trusted_authorities(),
                    key=legacy.tls_key,
                ),
                metrics=CollectorRegistry(),
                role=role,
                hostname=settings.hostname or system_hostname(),
                reach=reach,
                calls=calls,
                spreading=Spreading(identity.peer_id, trust, host, calls, host.connected),
                epoch=epoch,
                announcements=Announcements(identity.peer_id, trust.announcement_keys()),
                _scope=scope,
                _over=over,
            )
            sealer = Sealer(identity.peer_id, DATAGRAM_NETWORK)
            control = control_path(settings.state_dir, role, name)
            said = {
                "datagram_key": sealer.public_key,
                "datagram_port": bound_port(sockets[0]) if sockets else 0,
                **record,
            }
            node._publish(_first_record(node, settings, host_part, control, said))  # noqa: SLF001
            node.wants["watch"] = functools.partial(_watch, node)
            node.wants["rtt"] = lambda connection: serve_pair(connection, view, node.calls)
            serve_distances(reach, view)
            if prepare is not None:
                prepare(node)
            remembered = remembered_by(settings, role, node)
            node._mesh = mesh_of(node, settings, sealer, sockets, rng, remembered)  # noqa: SLF001
            await serve_trust(node, settings, role, nursery)
            await serve_node_metrics(node, settings, default_metrics_addr, nursery)
            if role is not Role.CLIENT:
                await nursery.start(serve_control, control, node._status, node.wants)  # noqa: SLF001
            await nursery.start(node._mesh.run)  # noqa: SLF001
            if remembered is not None:
                nursery.start_soon(remembered.keep, view, rng)
            if role is not Role.CLIENT:
                nursery.start_soon(traversal_of(node, settings, rng).run)
            if settings.bootstraps and settings.admin:
                with trio.move_on_after(INTRODUCTION_S):
                    await trust.introduced.wait()
            trust.introduced.set()
            node.follow_trust()
            scope.shield = True
            task_status.started(node)
    over.set()


def _addresses(view: View, peer: PeerId) -> Sequence[str]:
    record = view.peer(peer)
    if record is None:
        return ()
    if record.machine == view.machine:
        return sorted(record.addresses, key=is_circuit)  # the way to a neighbour is not outside
    return record.addresses


async def _watch(node: Node, connection: ControlConnection) -> None:
    """Send each change of the view as a line until the other end closes."""
    async for changes in changes_of(node.view, node.changed):
        await connection.send(*changes)


def check_settings(settings: NodeSettings, role: Role, name: str = "") -> None:
    """Refuse what can be seen to be wrong before anything is begun; `open_node` would, too.

    Raises:
        SettingsInvalid: saying what.
    """
    _check_bootstraps(settings.bootstraps)
    split_address(settings.p2p_listen_addr, "")
    split_address(settings.prom_listen_addr or ":0", "")
    trust_of(settings, role, own_identity(settings, role, name))


def _check_bootstraps(addresses: Iterable[str]) -> None:
    """Refuse what can never be dialled; what does not answer now is tried again and again."""
    for address in addresses:
        try:
            parse_address(address)
        except InvalidAddress as exc:
            raise SettingsInvalid(f"--bootstrap: {exc}") from exc


def _first_record(
    node: Node, settings: NodeSettings, listen_host: str, control: Path, extra: Mapping[str, Any]
) -> PeerRecord:
    bound = node.host.listen_addresses()
    ports = {int(a.rsplit("/tcp/", 1)[1].split("/")[0]) for a in bound}
    hosts = advertised_hosts(listen_host) if ports else []
    own = tuple(to_multiaddr(h, p) for h in hosts for p in sorted(ports))
    return PeerRecord(
        version=node._next_peer_version(),  # noqa: SLF001
        role=node.role,
        host=node.hostname,
        machine=node.view.machine,
        addresses=settings.announce or own,
        certificate=node.tls.pin,
        proof=node.trust.proof(),
        control=str(control),
        **extra,
    )
