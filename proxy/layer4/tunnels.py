"""Tunnels to instances: chosen as for a request, on the same roads, for as long as they are open.

Nothing is sent into a tunnel before its far end is reached, so one that cannot be opened is always
tried elsewhere. What moves in it afterwards cannot be sent twice: a tunnel whose instance, machine
or road fails is cut, and whoever opened it opens another. The same is done to one whose instance
has come to be over the hard RTT limit: a connection cannot be carried to another instance, and who
connects again gets a nearer one.

A chain goes on from where its first service is: the gateway there is told what follows, and its
machine's proxy opens the next tunnel (`overlay/onward.py`). From an instance on this machine, or
one whose gateway does not lead on, this proxy opens it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from overlay.datagram_end import open_datagrams
from overlay.errors import PeerUnreachable
from overlay.names import ServiceName
from overlay.onward import ONWARD_S
from overlay.spec import ServiceSpec
from overlay.tunnel import (
    Carries,
    End,
    FramedEnd,
    OnwardRefused,
    Relayed,
    SocketEnd,
    TunnelRefused,
    ask_gateway,
    let_go,
    relay,
)
from overlay.view import InstanceView
from proxy.backend.roads import Road, Roads
from proxy.errors import NothingFeasible, UpstreamLost
from proxy.layer4.hops import Hop, written
from proxy.request.attempts import MAX_ATTEMPTS
from proxy.request.forwarding import Forwarder
from proxy.route.affinity import key_of_tunnel
from proxy.telemetry.decisions import Asked, Decision, Failure
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
        leads_on: all that follows it in its chain is behind it.
        scope: cancelled when the tunnel must end.
        over: its instance was over the hard limit when it was last looked.
    """

    end: End
    spec: ServiceSpec
    instance: InstanceView
    hard_s: float | None
    leads_on: bool = False
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
        self,
        hop: Hop,
        client: str,
        caller: ServiceName | None = None,
        onward: tuple[Hop, ...] = (),
    ) -> AsyncIterator[Tunnel]:
        """Yield a tunnel to an instance of a service, which is started if need be.

        The block is cancelled, and left without an exception, when the tunnel must end. An end that
        the block has not let go of is cut.

        Args:
            hop: which service, and what it is sent.
            client: whose tunnel it is, by its address or instance: what policies hash.
            caller: the service that what is sent comes from, if it comes from one.
            onward: what follows it in a chain.

        Raises:
            RequestRefused: none can be had; says why.
        """
        revision, spec = await self._forwarder.resolve(hop.service)
        carries = hop.carried(spec)
        if self.count >= MAX_TUNNELS:
            raise NothingFeasible(hop.service, [f"{MAX_TUNNELS} tunnels are open here"])
        limits = self._forwarder.limits(spec, caller)
        decision = self._forwarder.decisions.begin(
            Asked(), revision, spec, limits, Timing(), caller
        )
        decision.key = key_of_tunnel(spec, client)
        guards = self._forwarder.guards
        if spec.rate_limited:
            await guards.limiter.admit(decision, caller or "")
        with guards.traffics.of(hop.service).under_way(spec):
            async with self._dug(decision, _Asked(carries, written(onward))) as tunnel:
                yield tunnel

    @asynccontextmanager
    async def _dug(self, decision: Decision, asked: "_Asked") -> AsyncIterator[Tunnel]:
        failure: Exception | None = None
        for _ in range(MAX_ATTEMPTS):
            instance = await self._forwarder.choose(decision)
            try:
                async with AsyncExitStack() as stack:
                    try:
                        tunnel = await self._dig(stack, decision, instance, asked)
                    except (PeerUnreachable, TunnelRefused) as exc:
                        failure = exc
                        self._give_up_on(decision, instance, exc)
                        continue
                    except OnwardRefused as exc:
                        raise UpstreamLost(f"behind {decision.service}: {exc}") from exc
                    with tunnel.scope:
                        yield tunnel
                    return
            finally:
                self._forwarder.chooser.done(instance, None)
        where = decision.service
        raise UpstreamLost(f"{where} could not be reached {MAX_ATTEMPTS} times: {failure}")

    @asynccontextmanager
    async def open_chain(
        self, hops: Sequence[Hop], client: str, caller: ServiceName | None = None
    ) -> AsyncIterator[list[Tunnel]]:
        """Yield the tunnels that a chain begins with; what the last one says is the chain's answer.

        Each hop is chosen for the one before it, as `open` says.

        Raises:
            RequestRefused: one of them cannot be had, or one ended before all were there.
        """
        tunnels: list[Tunnel] = []
        complete = False
        async with AsyncExitStack() as stack:
            for at, hop in enumerate(hops):
                tunnel = self.open(hop, client, caller, tuple(hops[at + 1 :]))
                tunnels.append(await stack.enter_async_context(tunnel))
                if tunnels[-1].leads_on:
                    break
                caller = hop.service
            complete = True
            yield tunnels
        if not complete:
            raise UpstreamLost(f"{hops[0].service} was lost before the chain was complete")

    async def carry(
        self,
        hops: Sequence[Hop],
        here: End,
        client: str,
        caller: ServiceName | None = None,
        opened: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> Relayed | None:
        """Carry what `here` says to a chain and what that answers back; None if it had to end.

        Args:
            hops: the chain.
            here: its first word, and who hears its last.
            client: as for `open`.
            caller: as for `open`.
            opened: called when the chain is there, before anything is carried.

        Raises:
            RequestRefused: as `open_chain`; `here` is left as it was.
        """
        async with self.open_chain(hops, client, caller) as tunnels:
            await opened()
            idle_s = min(tunnel.spec.tunnel_bound_s for tunnel in tunnels)
            return await relay([here, *(tunnel.end for tunnel in tunnels)], idle_s)
        return None

    async def _dig(
        self,
        stack: AsyncExitStack,
        decision: Decision,
        instance: InstanceView,
        asked: "_Asked",
    ) -> Tunnel:
        road = await self._roads.to(instance)
        decision.road = road.kind
        road.begin()
        stack.push_async_callback(road.end, 0.0)
        end = await self._reach(stack, road, instance, asked)
        stack.push_async_callback(let_go, [end], orderly=False)
        leads_on = isinstance(end, FramedEnd) and end.leads_on
        tunnel = Tunnel(end, decision.spec, instance, decision.limits.hard_s, leads_on)
        if road.lease is None:
            road.under_way.add(tunnel.scope)
            stack.callback(road.under_way.discard, tunnel.scope)
        self._open.add(tunnel)
        stack.callback(self._open.discard, tunnel)
        return tunnel

    async def _reach(
        self, stack: AsyncExitStack, road: Road, instance: InstanceView, asked: "_Asked"
    ) -> End:
        straight = road.routed or (road.lease.address if road.lease is not None else "")
        if straight and asked.carries == "udp":
            return await open_datagrams(straight, "the instance")
        if straight:
            upstream = await stack.enter_async_context(road.pool.acquire(fresh=True))
            return SocketEnd(upstream.switch()[0])
        with trio.CancelScope() as scope:
            road.under_way.add(scope)
            try:
                return await self._asked_for(stack, road, instance, asked)
            finally:
                road.under_way.discard(scope)
        raise PeerUnreachable("its machine does not answer any more")

    async def _asked_for(
        self, stack: AsyncExitStack, road: Road, instance: InstanceView, asked: "_Asked"
    ) -> End:
        try:
            return await self._ask(stack, road, instance, asked, fresh=False)
        except PeerUnreachable:  # a kept connection may have been closed as it was taken
            return await self._ask(stack, road, instance, asked, fresh=True)

    async def _ask(
        self,
        stack: AsyncExitStack,
        road: Road,
        instance: InstanceView,
        asked: "_Asked",
        *,
        fresh: bool,
    ) -> End:
        async with AsyncExitStack() as asking:
            upstream = await asking.enter_async_context(road.pool.acquire(fresh=fresh))
            target = f"{asked.carries}/{instance.record.id}".encode()
            within_s = ANSWER_S + (ONWARD_S if asked.onward else 0.0)
            end = await ask_gateway(
                upstream, target, instance.owner, asked.carries, within_s, asked.onward
            )
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a tunnel is asked for: what it carries, and what follows in a chain."""

    carries: Carries
    onward: str
