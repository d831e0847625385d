"""How a request gets to an instance: straight on this machine, else through its gateway.

A road is a pool of connections and what a request needs on it. On this machine an instance is
dialled at its own address under a use-lease from its allocator. On another machine it is reached
through that machine's gateway, over TLS or carried by the overlay (`gateways.py`).

A machine whose cable is cut sends no reset, and its kernel's peers would try for a quarter of an
hour. So what is under way to a gateway ends when membership says that its machine is dead. (A
TCP user timeout would do that too, and would also end a connection whose reader is merely slow.)
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import trio

from overlay.addresses import is_hidden
from overlay.errors import PeerUnreachable
from overlay.http.carried import MAX_CARRIED
from overlay.http.gateway import Carry, carry_gateway, open_tcp
from overlay.http.h2_upstream import StreamPool
from overlay.http.head import Field
from overlay.http.seam import Source
from overlay.http.upstream import Pool
from overlay.leases import Hello, Welcome
from overlay.names import InstanceId, PeerId
from overlay.records import Role
from overlay.spec import Protocol
from overlay.tls import PeerTls
from overlay.view import InstanceView, View
from proxy.backend.gateways import POOL_IDLE, GatewayWay
from proxy.backend.leases import Lease, LeaseHolder
from proxy.backend.routed import open_target
from proxy.ranking.routing_table import ROUTED


@dataclass(slots=True)
class Road:
    """A way to one instance.

    Attributes:
        pool: connections to its end, for HTTP/1.
        streams: the same for HTTP/2, where the instance is dialled directly.
        fields: what each request carries on it.
        lease: held on the instance, where it is dialled directly.
        carried: the overlay carries it.
        routed: the target in the routing table that it leads to; empty for an instance.
        under_way: what is cancelled when the other machine is dead; shared by its roads.
    """

    pool: Pool
    fields: tuple[Field, ...] = ()
    lease: Lease | None = None
    holder: LeaseHolder | None = None
    carried: bool = False
    routed: str = ""
    under_way: set[trio.CancelScope] = field(default_factory=set)
    streams: StreamPool | None = None

    @property
    def kind(self) -> str:
        """`direct`, `gateway`, `overlay` or `routed`, for explanations and metrics."""
        if self.routed:
            return "routed"
        if self.lease is not None:
            return "direct"
        return "overlay" if self.carried else "gateway"

    def source(self, protocol: Protocol) -> Source:
        """Return what lends connections to an instance that speaks `protocol`.

        A gateway speaks HTTP/1 to us and what it has to to the instance.
        """
        return self.streams if protocol == "h2c" and self.streams is not None else self.pool

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        await self.pool.aclose()
        if self.streams is not None:
            await self.streams.aclose()

    def begin(self) -> None:
        """Count a request that is about to be sent."""
        if self.lease is not None and self.holder is not None:
            self.holder.begin(self.lease)

    async def end(self, service_time_s: float) -> None:
        """Count its end."""
        if self.ended(service_time_s):
            await self.hand_back()

    def ended(self, service_time_s: float) -> bool:
        """Count its end; return whether `hand_back` is to be called, as it was the last."""
        if self.lease is None or self.holder is None:
            return False
        return self.holder.ended(self.lease, service_time_s)

    async def hand_back(self) -> None:
        """Give the lease back to who asked for it."""
        if self.lease is not None and self.holder is not None:
            await self.holder.hand_back(self.lease)


@dataclass(slots=True)
class _Gateway:
    """Connections to one gateway, good for as long as it shows a certificate with the key `pin`.

    A gateway that only the overlay leads to has neither that, as certificates do not matter there,
    nor a `way`; `scope` ends what looks after that.
    """

    pin: str | None
    pool: Pool
    way: GatewayWay | None
    under_way: set[trio.CancelScope]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def is_carried(self) -> bool:
        """Whether the next connection is carried by the overlay."""
        return self.way is None or self.way.is_shut

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self.scope.cancel()
        await self.pool.aclose()


class Roads:
    """Finds and keeps the roads of a proxy.

    Args:
        view: where instances and gateways are.
        tls: this peer's contexts.
        nursery: runs the connections to local allocators.
        hello: how the proxy introduces itself to the allocators of its machine.
        carry: opens connections over the overlay.
        welcomed: called with each local allocator's word on where containers look for the proxy;
            None for a process that is not to be found by them.
        max_carried: connections to one machine that the overlay may carry at once.
    """

    def __init__(
        self,
        view: View,
        tls: PeerTls,
        nursery: trio.Nursery,
        hello: Hello,
        carry: Carry,
        welcomed: Callable[[LeaseHolder, Welcome], None] | None,
        max_carried: int = MAX_CARRIED,
    ) -> None:
        self._max_carried = max_carried
        self._view = view
        self._tls = tls
        self._nursery = nursery
        self._hello = hello
        self._carry = carry
        self._welcomed = welcomed
        self._holders: dict[PeerId, tuple[LeaseHolder, trio.CancelScope]] = {}
        self._direct: dict[tuple[PeerId, InstanceId], Road] = {}
        self._gateways: dict[PeerId, _Gateway] = {}
        self._targets: dict[str, Road] = {}

    def known(self, instance: InstanceView) -> Road | None:
        """Return the direct road to `instance` if that is open."""
        road = self._direct.get(instance.key)
        if road is None or road.lease is None or road.lease.releasing or not instance.local:
            return None
        return road

    async def to(self, instance: InstanceView) -> Road:
        """Return the best road to `instance`.

        Raises:
            PeerUnreachable: its owner has no gateway, and it is not on this machine.
        """
        if instance.owner == ROUTED:
            return self._routed(instance.record.address)
        if instance.local:
            road = self.known(instance) or await self._open_direct(instance)
            if road is not None:
                return road
        return self._gateway(instance)

    async def follow(self) -> None:
        """Connect to the allocators that appear on this machine, drop what went."""
        local = {
            peer.peer_id: peer.record.control
            for peer in self._view.peers(Role.ALLOCATOR)
            if peer.local and _is_there(peer.record.control)
        }
        for peer in self._holders.keys() - local.keys():
            self._holders.pop(peer)[1].cancel()
        for peer in local.keys() - self._holders.keys():
            holder = LeaseHolder(Path(local[peer]), self._hello, self._welcomed)
            scope = trio.CancelScope()
            self._holders[peer] = holder, scope
            self._nursery.start_soon(_run_within, scope, holder)
        alive = {i.key for i in self._view.all_instances()}
        for instance in self._direct.keys() - alive:
            await self._direct.pop(instance).aclose()
        members = {peer.peer_id for peer in self._view.peers(Role.ALLOCATOR)}
        for peer in self._gateways.keys() - members:
            gateway = self._gateways.pop(peer)
            for scope in gateway.under_way:
                scope.cancel()
            await gateway.aclose()

    async def retire(self) -> None:
        """Have this machine's allocators send their sandboxes to another proxy."""
        for holder, _ in list(self._holders.values()):
            await holder.retire()

    def is_carried(self, owner: PeerId) -> bool:
        """Whether the next connection to the machine's gateway is carried by the overlay."""
        gateway = self._gateways.get(owner)
        return gateway is not None and gateway.is_carried

    def leads_nowhere(self, owner: PeerId) -> bool:
        """Whether no connection to the machine's gateway could be made a moment ago."""
        gateway = self._gateways.get(owner)
        return gateway is not None and gateway.way is not None and gateway.way.leads_nowhere

    def look_at_paths(self) -> None:
        """End what is under way to machines to which the path is cut; call it now and then."""
        for gateway in self._gateways.values():
            if gateway.way is not None:
                gateway.way.end_what_is_cut()

    async def sweep(self) -> None:
        """Close idle connections that are too old or were closed by the other end."""
        for pool in self._pools():
            await pool.sweep()

    async def aclose(self) -> None:
        """Close every connection that is kept, and each in use when its request has ended."""
        for road in (*self._direct.values(), *self._targets.values()):
            await road.aclose()
        for gateway in list(self._gateways.values()):
            await gateway.pool.aclose()

    async def keep_routed(self, targets: Collection[str]) -> None:
        """Close the connections to what is not in the routing table any more."""
        for address in self._targets.keys() - set(targets):
            await self._targets.pop(address).aclose()

    def _pools(self) -> list[Pool]:
        roads = [*self._direct.values(), *self._targets.values()]
        return [road.pool for road in roads] + [g.pool for g in self._gateways.values()]

    def _routed(self, address: str) -> Road:
        road = self._targets.get(address)
        if road is None:

            async def dial() -> trio.abc.Stream:
                return await open_target(address, self._hello.proxy_port)

            streams = StreamPool(dial, self._nursery)
            road = Road(Pool(dial, max_idle=POOL_IDLE), routed=address, streams=streams)
            self._targets[address] = road
        return road

    async def _open_direct(self, instance: InstanceView) -> Road | None:
        holder, _ = self._holders.get(instance.owner, (None, None))
        lease = None if holder is None else await holder.acquire(instance.record.id)
        if lease is None:
            return None
        known = self._direct.get(instance.key)
        if known is not None and known.lease is lease:
            return known
        if known is not None:
            self._nursery.start_soon(known.aclose)  # the lease holds until the next wait only

        async def dial() -> trio.abc.Stream:
            return await open_tcp(lease.address, "the instance")

        streams = StreamPool(dial, self._nursery)
        road = Road(Pool(dial, max_idle=POOL_IDLE), (), lease, holder, streams=streams)
        lease.let_go = road.aclose
        self._direct[instance.key] = road
        return road

    def _gateway(self, instance: InstanceView) -> Road:
        record = self._view.peer(instance.owner)
        carried = record is not None and is_hidden(record.addresses) and not instance.local
        if record is None or not (record.gateway or carried):
            raise PeerUnreachable(f"{instance.owner} has no gateway")
        pin = None if carried else record.certificate
        gateway = self._gateways.get(instance.owner)
        if gateway is None or gateway.pin != pin:
            gateway = self._new_gateway(instance.owner, pin, gateway)
        fields = ((b"Myxo-Instance", instance.record.id.encode()),)
        return Road(gateway.pool, fields, carried=gateway.is_carried, under_way=gateway.under_way)

    def _new_gateway(self, owner: PeerId, pin: str | None, old: _Gateway | None) -> _Gateway:
        # What is under way on the old connections ends with the machine all the same.
        under_way = set() if old is None else old.under_way
        if old is not None:
            self._nursery.start_soon(old.aclose)
        if pin is None:
            made = _Gateway(None, self._carried_pool(owner), None, under_way)
        else:
            way = GatewayWay(owner, self._view, self._tls, self._carry)
            made = _Gateway(pin, way.pool, way, under_way)
            self._nursery.start_soon(_run_within, made.scope, way)
        self._gateways[owner] = made
        return made

    def _carried_pool(self, owner: PeerId) -> Pool:
        async def dial() -> trio.abc.Stream:
            return await carry_gateway(self._carry, owner)

        return Pool(dial, max_idle=POOL_IDLE, max_open=self._max_carried)


def _is_there(control: str) -> bool:
    """Whether a peer's record names a socket of this machine; any member can say anything there."""
    try:
        return Path(control).is_socket()
    except OSError:
        return False


async def _run_within(scope: trio.CancelScope, lasting: LeaseHolder | GatewayWay) -> None:
    with scope:
        await lasting.run()
