"""How a request gets to an instance: straight on this machine, else through its gateway.

A road is a pool of connections and what a request needs on it. On this machine an instance is
dialled at its own address under a use-lease from its allocator. On another machine it is reached
through that machine's gateway: TCP with mutual TLS 1.3, where both ends compare the other's
certificate with the pin in its signed record, and the gateway says in one line that it accepts the
caller. Nothing is sent before that line, so a refusal is always replayable.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from overlay.errors import PeerUnreachable, SettingsInvalid
from overlay.http.head import Field
from overlay.http.upstream import Pool
from overlay.leases import Welcome
from overlay.names import InstanceId, PeerId
from overlay.records import Role
from overlay.settings import split_address
from overlay.tls import PeerTls, leaf_sha256
from overlay.view import InstanceView, View
from proxy.leases import Lease, LeaseHolder

CONNECT_TIMEOUT_S = 3.0
"""TCP and TLS to a gateway take three round trips; a second each is generous."""

LOST_AFTER_S = 3
"""A machine whose kernel acknowledges nothing for so long is gone, by when it is out of the view
too. Without it a request on a connection that was open would wait for a quarter of an hour, for
which the kernel goes on trying."""

KEEPALIVE_S = 1
"""After so long without a packet the kernel asks whether the other end is there, while a request
waits for its answer: a slow service answers that, a machine that is gone does not."""

ACCEPT_LINE = b"MYXO/1 OK\r\n"
MAX_ACCEPT_LINE = 512

POOL_IDLE = 64
"""Idle connections kept to one target; a burst above it opens more and closes them afterwards."""


@dataclass(slots=True)
class Road:
    """A way to one instance.

    Attributes:
        pool: connections to its end.
        fields: what each request carries on it.
        lease: held on the instance, where it is dialled directly.
    """

    pool: Pool
    fields: tuple[Field, ...] = ()
    lease: Lease | None = None
    holder: LeaseHolder | None = None

    @property
    def kind(self) -> str:
        """`direct` or `gateway`, for explanations and metrics."""
        return "gateway" if self.lease is None else "direct"

    def begin(self) -> None:
        """Count a request that is about to be sent."""
        if self.lease is not None and self.holder is not None:
            self.holder.begin(self.lease)

    async def end(self, service_time_s: float) -> None:
        """Count its end."""
        if self.lease is not None and self.holder is not None:
            await self.holder.end(self.lease, service_time_s)


class Roads:
    """Finds and keeps the roads of a proxy.

    Args:
        view: where instances and gateways are.
        tls: this peer's contexts.
        nursery: runs the connections to local allocators.
        proxy_port: where this machine's instances find the proxy.
        welcomed: called with each local allocator's word on the containers' bridge.
    """

    def __init__(
        self,
        view: View,
        tls: PeerTls,
        nursery: trio.Nursery,
        proxy_port: int,
        welcomed: Callable[[Welcome], None],
    ) -> None:
        self._view = view
        self._tls = tls
        self._nursery = nursery
        self._proxy_port = proxy_port
        self._welcomed = welcomed
        self._holders: dict[PeerId, tuple[LeaseHolder, trio.CancelScope]] = {}
        self._direct: dict[InstanceId, Road] = {}
        self._gateways: dict[PeerId, tuple[str, Pool]] = {}

    async def to(self, instance: InstanceView) -> Road:
        """Return the best road to `instance`.

        Raises:
            PeerUnreachable: its owner has no gateway, and it is not on this machine.
        """
        if instance.local:
            road = self._direct.get(instance.record.id)
            if road is not None and road.lease is not None and not road.lease.releasing:
                return road
            road = await self._open_direct(instance)
            if road is not None:
                return road
        return self._gateway(instance)

    async def follow(self) -> None:
        """Connect to the allocators that appear on this machine, drop what went; never waits."""
        local = {
            peer.peer_id: peer.record.control
            for peer in self._view.peers(Role.ALLOCATOR)
            if peer.local and peer.record.control and Path(peer.record.control).exists()
        }
        for peer in self._holders.keys() - local.keys():
            self._holders.pop(peer)[1].cancel()
        for peer in local.keys() - self._holders.keys():
            holder = LeaseHolder(Path(local[peer]), self._proxy_port, self._welcomed)
            scope = trio.CancelScope()
            self._holders[peer] = holder, scope
            self._nursery.start_soon(_run_within, scope, holder)
        alive = {i.record.id for i in self._view.all_instances()}
        for instance in self._direct.keys() - alive:
            await self._direct.pop(instance).pool.aclose()
        members = {peer.peer_id for peer in self._view.peers(Role.ALLOCATOR)}
        for peer in self._gateways.keys() - members:
            await self._gateways.pop(peer)[1].aclose()

    async def sweep(self) -> None:
        """Close idle connections that are too old or were closed by the other end."""
        pools = [road.pool for road in self._direct.values()]
        for pool in pools + [pool for _, pool in self._gateways.values()]:
            await pool.sweep()

    async def aclose(self) -> None:
        """Close every connection that is kept, and each in use when its request has ended."""
        pools = [road.pool for road in self._direct.values()]
        for pool in pools + [pool for _, pool in self._gateways.values()]:
            await pool.aclose()

    async def _open_direct(self, instance: InstanceView) -> Road | None:
        holder, _ = self._holders.get(instance.owner, (None, None))
        lease = None if holder is None else await holder.acquire(instance.record.id)
        if lease is None:
            return None
        known = self._direct.get(instance.record.id)
        if known is not None and known.lease is lease:
            return known
        if known is not None:
            self._nursery.start_soon(known.pool.aclose)  # the lease holds until the next wait only

        async def dial() -> trio.abc.Stream:
            return await _open_tcp(lease.address, "the instance")

        road = Road(Pool(dial, max_idle=POOL_IDLE), (), lease, holder)
        self._direct[instance.record.id] = road
        return road

    def _gateway(self, instance: InstanceView) -> Road:
        record = self._view.peer(instance.owner)
        if record is None or not record.gateway:
            raise PeerUnreachable(f"{instance.owner} has no gateway")
        pin, pool = self._gateways.get(instance.owner, ("", None))
        if pool is None or pin != record.certificate:
            if pool is not None:
                self._nursery.start_soon(pool.aclose)
            pool = self._gateway_pool(instance.owner)
            self._gateways[instance.owner] = record.certificate, pool
        return Road(pool, ((b"Myxo-Instance", instance.record.id.encode()),))

    def _gateway_pool(self, owner: PeerId) -> Pool:
        async def dial() -> trio.abc.Stream:
            record = self._view.peer(owner)
            if record is None:
                raise PeerUnreachable(f"{owner} is gone")
            failure = PeerUnreachable(f"{record.host} has no gateway")
            for address in record.gateway:
                try:
                    return await _open_gateway(address, record.certificate, self._tls)
                except PeerUnreachable as exc:
                    failure = exc
            raise failure

        return Pool(dial, max_idle=POOL_IDLE)


async def _run_within(scope: trio.CancelScope, holder: LeaseHolder) -> None:
    with scope:
        await holder.run()


async def _open_tcp(address: str, what: str) -> trio.SocketStream:
    try:
        host, port = split_address(address, "")
        with trio.fail_after(CONNECT_TIMEOUT_S):
            return await trio.open_tcp_stream(host, port)
    except (OSError, ValueError, SettingsInvalid, trio.TooSlowError) as exc:
        raise PeerUnreachable(f"{what} at {address} cannot be reached: {exc}") from exc


async def _open_gateway(address: str, pin: str, tls: PeerTls) -> trio.abc.Stream:
    tcp = await _open_tcp(address, "the gateway")
    _bound_silence(tcp)
    stream = trio.SSLStream(tcp, tls.client_context, https_compatible=True)
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            await _meet(stream, address, pin)
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        await trio.aclose_forcefully(stream)
        raise PeerUnreachable(f"the gateway at {address} does not answer: {exc!r}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _bound_silence(tcp: trio.SocketStream) -> None:
    """Have the connection break once the other machine has been silent for `LOST_AFTER_S`."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_AFTER_S * 1000)


async def _meet(stream: "trio.SSLStream[trio.SocketStream]", address: str, pin: str) -> None:
    """Check who is at the other end, then wait for its word that this peer may call."""
    await stream.do_handshake()
    if leaf_sha256(stream) != pin:
        raise PeerUnreachable(f"another peer than expected answers at {address}")
    line = b""
    while not line.endswith(b"\r\n"):
        data = await stream.receive_some(MAX_ACCEPT_LINE - len(line))
        if not data or len(line) + len(data) >= MAX_ACCEPT_LINE:
            raise PeerUnreachable(f"the gateway at {address} closed without accepting this peer")
        line += data
    if line != ACCEPT_LINE:
        text = line.decode("ascii", "replace").strip()
        raise PeerUnreachable(f"the gateway at {address} refused this peer: {text}")
