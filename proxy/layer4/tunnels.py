"""Tunnels to instances: chosen as for a request, on the same roads, for as long as they are open.

Nothing is sent into a tunnel before its far end is reached, so one that cannot be opened is always
tried elsewhere. What moves in it afterwards cannot be sent twice: a tunnel whose instance, machine
or road fails is cut, and whoever opened it opens another. The same is done to one whose instance
has come to be over the hard RTT limit: a connection cannot be carried to another instance, and who
connects again gets a nearer one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from overlay.datagram_end import open_datagrams
from overlay.errors import PeerUnreachable
from overlay.names import ServiceName
from overlay.spec import ServiceSpec
from overlay.tunnel import Carries, End, SocketEnd, TunnelRefused, ask_gateway, let_go
from overlay.view import InstanceView
from proxy.backend.roads import Road, Roads
from proxy.errors import NothingFeasible, UpstreamLost
from proxy.layer4.hops import Hop
from proxy.request.attempts import MAX_ATTEMPTS
from proxy.request.forwarding import Forwarder
from proxy.route.affinity import key_of_tunnel
from proxy.telemetry.decisions import Decision, Failure
from proxy.telemetry.timing import Timing

MAX_TUNNELS = 4096
"""Open at once in this proxy; each has two sockets, and there are 20,000 other clients to serve."""

ANSWER_S = 10.0
"""For a gateway to wake and reach an instance."""

CHECK_S = 1.0
"""How often hard RTT limits are looked at; over one twice in a row ends a tunnel."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Tunnel:
    """An open tunnel.

    Attributes:
        end: what is at the other side.
        spec: of the service there.
        instance: which of its instances.
        scope: cancelled when the tunnel must end.
        over: its instance was over the hard limit when it was last looked.
    """

    end: End
    spec: ServiceSpec
    instance: InstanceView
    hard_s: float | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: bool = False


class Tunnels:
    """Opens tunnels.

    Args:
        forwarder: knows services and chooses instances.
        roads: how these are reached.
    """

    def __init__(self, forwarder: Forwarder, roads: Roads) -> None:
        self._forwarder = forwarder
        self._roads = roads
        self._open: set[Tunnel] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    async def watch(self) -> None:
        """End tunnels whose instance is over the hard RTT limit, until cancelled."""
        while True:
            await trio.sleep(CHECK_S)
            for tunnel in list(self._open):
                self._look_at(tunnel)

    @asynccontextmanager
    async def open(
        self, hop: Hop, client: str, caller: ServiceName | None = None
    ) -> AsyncIterator[Tunnel]:
        """Yield a tunnel to an instance of a service, which is started if need be.

        The block is cancelled, and left without an exception, when the tunnel must end. An end that
        the block has not let go of is cut.

        Args:
            hop: which service, and what it is sent.
            client: whose tunnel it is, by its address or instance: what policies hash.
            caller: the service that what is sent comes from, if it comes from one.

        Raises:
            RequestRefused: none can be had; says why.
        """
        revision, spec = await self._forwarder.resolve(hop.service)
        carries = hop.carried(spec)
        if self.count >= MAX_TUNNELS:
            raise NothingFeasible(hop.service, [f"{MAX_TUNNELS} tunnels are open here"])
        limits = self._forwarder.limits(spec, caller)
        decision = self._forwarder.decisions.begin((), revision, spec, limits, Timing(), caller)
        decision.key = key_of_tunnel(spec, client)
        guards = self._forwarder.guards
        if spec.rate_limited:
            await guards.limiter.admit(decision, caller or "")
        with guards.traffics.of(hop.service).under_way(spec):
            async with self._dug(decision, carries) as tunnel:
                yield tunnel

    @asynccontextmanager
    async def _dug(self, decision: Decision, carries: Carries) -> AsyncIterator[Tunnel]:
        failure: Exception | None = None
        for _ in range(MAX_ATTEMPTS):
            instance = await self._forwarder.choose(decision)
            try:
                async with AsyncExitStack() as stack:
                    try:
                        tunnel = await self._dig(stack, decision, instance, carries)
                    except (PeerUnreachable, TunnelRefused) as exc:
                        failure = exc
                        self._give_up_on(decision, instance, exc)
                        continue
                    with tunnel.scope:
                        yield tunnel
                    return
            finally:
                self._forwarder.chooser.done(instance, None)
        where = decision.service
        raise UpstreamLost(f"{where} could not be reached {MAX_ATTEMPTS} times: {failure}")

    @asynccontextmanager
    async def open_chain(self, hops: Sequence[Hop], client: str) -> AsyncIterator[list[Tunnel]]:
        """Yield a tunnel to each hop; each is chosen for the one before it, as `open` says.

        Raises:
            RequestRefused: one of them cannot be had, or one ended before all were there.
        """
        tunnels: list[Tunnel] = []
        async with AsyncExitStack() as stack:
            caller: ServiceName | None = None
            for hop in hops:
                tunnels.append(await stack.enter_async_context(self.open(hop, client, caller)))
                caller = hop.service
            yield tunnels
        if len(tunnels) < len(hops):
            raise UpstreamLost(f"{hops[0].service} was lost before the chain was complete")

    async def _dig(
        self,
        stack: AsyncExitStack,
        decision: Decision,
        instance: InstanceView,
        carries: Carries,
    ) -> Tunnel:
        road = await self._roads.to(instance)
        decision.road = road.kind
        road.begin()
        stack.push_async_callback(road.end, 0.0)
        end = await self._reach(stack, road, instance, carries)
        stack.push_async_callback(let_go, [end], orderly=False)
        tunnel = Tunnel(end, decision.spec, instance, decision.limits.hard_s)
        if road.lease is None:
            road.under_way.add(tunnel.scope)
            stack.callback(road.under_way.discard, tunnel.scope)
        self._open.add(tunnel)
        stack.callback(self._open.discard, tunnel)
        return tunnel

    async def _reach(
        self, stack: AsyncExitStack, road: Road, instance: InstanceView, carries: Carries
    ) -> End:
        straight = road.routed or (road.lease.address if road.lease is not None else "")
        if straight and carries == "udp":
            return await open_datagrams(straight, "the instance")
        if straight:
            upstream = await stack.enter_async_context(road.pool.acquire(fresh=True))
            return SocketEnd(upstream.switch()[0])
        try:
            return await self._ask(stack, road, instance, carries, fresh=False)
        except PeerUnreachable:  # a kept connection may have been closed as it was taken
            return await self._ask(stack, road, instance, carries, fresh=True)

    async def _ask(
        self,
        stack: AsyncExitStack,
        road: Road,
        instance: InstanceView,
        carries: Carries,
        *,
        fresh: bool,
    ) -> End:
        async with AsyncExitStack() as asking:
            upstream = await asking.enter_async_context(road.pool.acquire(fresh=fresh))
            target = f"{carries}/{instance.record.id}".encode()
            end = await ask_gateway(upstream, target, instance.owner, carries, ANSWER_S)
            stack.push_async_exit(asking.pop_all())
            return end

    def _give_up_on(self, decision: Decision, instance: InstanceView, exc: Exception) -> None:
        log.info("tunnel.failed", service=decision.service, reason=str(exc))
        self._forwarder.decisions.note(decision, Failure(instance, str(exc)))
        self._forwarder.guards.ejector.failed(instance, decision.spec)
        self._forwarder.chooser.lost(decision, instance)

    def _look_at(self, tunnel: Tunnel) -> None:
        hard_s = tunnel.hard_s
        over = hard_s is not None and self._forwarder.chooser.is_over(tunnel.instance, hard_s)
        if over and tunnel.over:
            log.info("tunnel.over_limit", instance=tunnel.instance.record.id)
            tunnel.scope.cancel()
        tunnel.over = over
