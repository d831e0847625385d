"""Reaching a peer: by the connection there is, or by a new one to any address in its record.

Addresses are tried side by side, each a little after the one before, because one that leads nowhere
(an interface of another network, a firewall that drops) answers only by its silence. Whoever wants
the same peer meanwhile waits for the same attempt.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
import trio

from overlay.errors import PeerUnreachable
from overlay.framing import FramedStream
from overlay.names import PeerId

DIAL_TIMEOUT_S = 5.0
"""For all addresses of a peer together: a lost SYN is sent again after 1 and 3 s."""

STAGGER_S = 0.25
"""Between the starts of two attempts (RFC 8305, Connection Attempt Delay)."""

DIALS_AT_ONCE = 16
"""Peers; a network that comes back all at once must not exhaust sockets or cores."""

log = structlog.get_logger()


class ReachHost(Protocol):
    """What reaching needs of the libp2p host."""

    async def connect(self, peer: PeerId | None, address: str, *, timeout_s: float) -> PeerId:
        """Dial an address."""
        ...

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        """Open a stream to a connected peer."""
        ...

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        """Serve inbound streams of a protocol."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection to."""
        ...


class Reach:
    """Opens streams to peers, connecting first where that is needed.

    Args:
        host: the libp2p host.
        addresses: returns the multiaddrs under which a peer says that it can be dialled.
    """

    def __init__(self, host: ReachHost, addresses: Callable[[PeerId], Sequence[str]]) -> None:
        self._host = host
        self._addresses = addresses
        self._dialling: dict[PeerId, trio.Event] = {}
        self._limit = trio.CapacityLimiter(DIALS_AT_ONCE)

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        """Serve inbound streams of a protocol."""
        self._host.handle(protocol, handler)

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        """Return a stream on which `peer` speaks `protocol`.

        Raises:
            PeerUnreachable: it cannot be connected to, or the connection is lost.
            ProtocolRefused: it does not speak `protocol`.
        """
        await self.connect(peer)
        return await self._host.open_stream(peer, protocol)

    async def connect(self, peer: PeerId) -> None:
        """Return once there is a connection to `peer`.

        Raises:
            PeerUnreachable: no address of its record leads to it.
        """
        while peer not in self._host.connected():
            under_way = self._dialling.get(peer)
            if under_way is None:
                await self._dial(peer)
                return
            await under_way.wait()
            if peer not in self._host.connected() and peer not in self._dialling:
                raise PeerUnreachable(f"{peer} does not answer at any of its addresses")

    async def connect_any(self, addresses: Sequence[str]) -> None:
        """Return once one of several peers' addresses has led to somebody, or none does."""
        failures: list[PeerUnreachable] = []
        async with trio.open_nursery() as nursery:
            for number, address in enumerate(addresses):
                delay_s = number * STAGGER_S
                nursery.start_soon(self._dial_one, None, address, delay_s, failures, nursery)

    async def _dial(self, peer: PeerId) -> None:
        done = self._dialling[peer] = trio.Event()
        try:
            async with self._limit:
                if peer not in self._host.connected():
                    await self._dial_each(peer, self._addresses(peer))
        finally:
            del self._dialling[peer]
            done.set()

    async def _dial_each(self, peer: PeerId, addresses: Sequence[str]) -> None:
        if not addresses:
            raise PeerUnreachable(f"{peer} is not connected, and no address of it is known")
        failures: list[PeerUnreachable] = []
        async with trio.open_nursery() as nursery:
            for number, address in enumerate(addresses):
                nursery.start_soon(
                    self._dial_one, peer, address, number * STAGGER_S, failures, nursery
                )
        if peer not in self._host.connected():
            raise failures[0] if failures else PeerUnreachable(f"{peer} went away at once")

    async def _dial_one(
        self,
        peer: PeerId | None,
        address: str,
        delay_s: float,
        failures: list[PeerUnreachable],
        others: trio.Nursery,
    ) -> None:
        await trio.sleep(delay_s)
        try:
            await self._host.connect(peer, address, timeout_s=DIAL_TIMEOUT_S)
        except PeerUnreachable as exc:
            log.debug("peer.unreachable", peer=peer, address=address, error=str(exc))
            failures.append(exc)
        else:
            others.cancel_scope.cancel()
