"""Who is connected to whom: bootstrap nodes, neighbours, and the gossip stream to each.

Each peer opens one stream to each neighbour and is opened one in return; a link is kept while one
of the two has chosen the other (`neighbours.py`). Connections that serve calls only are none of
this module's business.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Protocol

import structlog
import trio

from overlay.entrances import REDIAL_FIRST_S, REDIAL_MOST_S, Entrances
from overlay.errors import MyxoError
from overlay.framing import FramedStream
from overlay.gossip import GOSSIP_PROTOCOL
from overlay.host import Connected, ConnectionEvent, Moved
from overlay.membership import MemberState
from overlay.names import PeerId
from overlay.neighbours import FULL_MESH, choose
from overlay.outbox import Outbox
from overlay.reach import DIAL_TIMEOUT_S, Reach
from overlay.view import View

COURTESY_S = 0.5
"""A newcomer dials everybody at once; those who are there wait so long for it before they dial it
themselves, so that two peers seldom end up with two connections."""

RECHOOSE_S = 0.2
"""Between two choices of neighbours: a network that comes up changes with every record."""

log = structlog.get_logger()


class LinkHost(Protocol):
    """What links need of the libp2p host."""

    connections: "trio.MemoryReceiveChannel[ConnectionEvent]"

    async def connect(self, peer: PeerId | None, address: str, *, timeout_s: float) -> PeerId:
        """Dial an address."""
        ...

    async def open_one_way(self, peer: PeerId, protocol: str) -> FramedStream:
        """Open a stream that is only written to."""
        ...

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        """Serve inbound streams of a protocol."""
        ...

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to a peer."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection to."""
        ...


class Links:
    """Keeps the gossip streams while `run` runs.

    Args:
        host: the libp2p host.
        view: who is there, and how far.
        reach: connects to peers.
        rng: chooses neighbours.
        bootstraps: multiaddrs, which say who answers there.
        remembered: returns multiaddrs of peers that were there before, tried while no bootstrap
            answers.
        greet: returns what a new stream begins with.
        met: called when a peer gets connected.
        lost: called when the last connection to a peer ended.
    """

    def __init__(
        self,
        host: LinkHost,
        view: View,
        reach: Reach,
        rng: random.Random,
        *,
        bootstraps: Iterable[str],
        remembered: Callable[[], Sequence[str]],
        greet: Callable[[PeerId], Iterable[bytes]],
        met: Callable[[PeerId], None],
        lost: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._view = view
        self._reach = reach
        self._rng = rng
        self._greet = greet
        self._met = met
        self._lost = lost
        self._outboxes: dict[PeerId, Outbox] = {}
        self.entrances = Entrances(
            bootstraps,
            remembered,
            dial=lambda address: host.connect(None, address, timeout_s=DIAL_TIMEOUT_S),
            dial_any=reach.connect_any,
            is_kept=self._is_kept,
            is_alone=lambda: not self._outboxes,
        )
        self._chosen: frozenset[PeerId] = frozenset()
        self._chosen_by: set[PeerId] = set()
        self._dialling: set[PeerId] = set()
        self._respoken: set[PeerId] = set()
        self._settled = False
        self._rechoose = trio.Event()
        self._speaking = 0
        self._spoken = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keep links until cancelled.

        Raises:
            PassphraseRefused: every bootstrap answers but shares no passphrase, before this peer
                has ever joined.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_connections)
            nursery.start_soon(self._keep_neighbours)
            nursery.start_soon(self.entrances.run)

    # for who speaks

    def post(self, peer: PeerId, data: bytes) -> bool:
        """Queue a frame for a neighbour; False if it is none. One that is too slow is cut."""
        outbox = self._outboxes.get(peer)
        if outbox is None:
            return False
        if not outbox.post(data):
            log.warning("peer.too_slow", peer=peer)
            self._close(peer)
            self._disconnect(peer)
        return True

    def tell(self, frames: Iterable[bytes], *, but: PeerId | None = None) -> None:
        """Queue frames for every neighbour, guests included."""
        every = list(frames)
        for peer in list(self._outboxes):
            if peer != but:
                for data in every:
                    self.post(peer, data)

    def neighbours(self) -> frozenset[PeerId]:
        """Return the peers that there is a gossip stream to."""
        return frozenset(self._outboxes)

    def guests(self) -> list[PeerId]:
        """Return the neighbours that are no members."""
        return [peer for peer in self._outboxes if not self._view.is_member(peer)]

    def chooses(self, peer: PeerId) -> bool:
        """Whether this peer wants the link to `peer`; until it has settled it wants every one."""
        return peer in self._chosen or not self._settled

    def is_large(self) -> bool:
        """Whether the network is too large for everybody to be everybody's neighbour."""
        return len(self._view.members()) > FULL_MESH + 1

    def is_connected(self, peer: PeerId) -> bool:
        """Whether there is a connection to `peer`."""
        return peer in self._host.connected()

    def unmeasured(self) -> bool:
        """Whether the RTT of a neighbour-to-be is not known yet."""
        chosen = choose(self._distances(), self._chosen, self._rng)
        return any(self._view.membership.rtt(peer) is None for peer in chosen | self._chosen)

    # for who hears

    def open(self, peer: PeerId) -> None:
        """Have a gossip stream to a connected peer."""
        if self._nursery is not None and peer not in self._outboxes:
            outbox = self._outboxes[peer] = Outbox()
            for data in self._greet(peer):
                outbox.post(data)
            self._nursery.start_soon(self._speak, peer, outbox)

    def told_choice(self, peer: PeerId, *, chosen: bool) -> None:
        """Take in whether `peer` wants the link."""
        (self._chosen_by.add if chosen else self._chosen_by.discard)(peer)
        if not chosen and self._settled and self.is_large():
            self._rechoose.set()

    def fell_silent(self, peer: PeerId) -> None:
        """Take in that `peer` ended its gossip stream in good order."""
        self._chosen_by.discard(peer)
        if peer not in self._chosen:
            self._close(peer)

    def reconsider(self) -> None:
        """Choose neighbours anew soon: who is there has changed."""
        self._rechoose.set()

    def settle(self) -> None:
        """Take in that this peer knows the network; from now on it is choosy."""
        self._settled = True
        self._rechoose.set()

    def drop(self, peer: PeerId) -> None:
        """Have nothing to do with `peer` any more."""
        self._close(peer)
        self._disconnect(peer)

    async def finish(self) -> None:
        """End all gossip streams; what was posted before is sent first."""
        for peer in list(self._outboxes):
            self._close(peer)
        while self._speaking:
            await self._spoken.wait()

    # connections

    async def _watch_connections(self) -> None:
        """Tell who is connected and who no longer; one that comes back at once is told as both."""
        async for event in self._host.connections:
            if isinstance(event, Connected):
                self._met(event.peer)
                if self.chooses(event.peer) or not self.is_large():
                    self.open(event.peer)
            elif isinstance(event, Moved):
                self._move(event.peer)
            else:
                self._chosen_by.discard(event.peer)
                self._respoken.discard(event.peer)
                self._close(event.peer)
                self._lost(event.peer)
                self._rechoose.set()

    def _is_kept(self, peer: PeerId) -> bool:
        """Whether a bootstrap is connected, or in a large network known to be alive."""
        alive = self._view.membership.state(peer) is MemberState.ALIVE
        return self.is_connected(peer) or (alive and self.is_large())

    async def _keep_neighbours(self) -> None:
        """Choose neighbours anew whenever the members change, and see that they are connected."""
        while True:
            await self._rechoose.wait()
            self._rechoose = trio.Event()
            self._chosen = choose(self._distances(), self._chosen, self._rng)
            for peer in sorted(self._chosen):
                if self.is_connected(peer):
                    self.open(peer)
                else:
                    self._seek(peer)
            if self._settled and self.is_large():
                self._part()
            await trio.sleep(RECHOOSE_S)

    def _distances(self) -> dict[PeerId, float]:
        """Return the members that can be dialled, and how far they are."""
        distances = {}
        for peer in self._view.members():
            record = self._view.peer(peer)
            if peer != self._view.me and record is not None and record.addresses:
                distance = self._view.distance(peer)
                distances[peer] = inf if distance is None else distance.rtt_s
        return distances

    def _part(self) -> None:
        """Close the links that neither end has chosen; say so of those that only the other did."""
        for peer in list(self._outboxes):
            if peer in self._chosen or not self._view.is_member(peer):
                continue
            if peer in self._chosen_by:
                for data in self._greet(peer):
                    self.post(peer, data)
            else:
                self._close(peer)

    def _seek(self, peer: PeerId) -> None:
        """Dial a chosen peer in the background."""
        if peer not in self._dialling and self._nursery is not None:
            self._dialling.add(peer)
            self._nursery.start_soon(self._dial, peer)

    async def _dial(self, peer: PeerId) -> None:
        try:
            if self._settled:
                await trio.sleep(COURTESY_S)
            delay = REDIAL_FIRST_S
            while peer in self._chosen and not self.is_connected(peer):
                try:
                    await self._reach.connect(peer)
                except MyxoError as exc:
                    log.debug("peer.unreachable", peer=peer, error=str(exc))
                    await trio.sleep(delay)
                    delay = min(delay * 2, REDIAL_MOST_S)
        finally:
            self._dialling.discard(peer)

    def _move(self, peer: PeerId) -> None:
        """Take the direct connection that there is now: end the stream, and begin another."""
        if peer in self._outboxes:
            self._close(peer)
            self.open(peer)

    def _close(self, peer: PeerId) -> None:
        outbox = self._outboxes.pop(peer, None)
        if outbox is not None:
            outbox.close()

    def _disconnect(self, peer: PeerId) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._host.disconnect, peer)

    async def _speak(self, peer: PeerId, outbox: Outbox) -> None:
        """Own the gossip stream to one peer: send what is posted until it is closed."""
        self._speaking += 1
        orderly = False
        try:
            stream = await self._host.open_one_way(peer, GOSSIP_PROTOCOL)
            try:
                while (data := await outbox.take()) is not None:
                    await stream.send(data)
                await stream.finish()
                orderly = True
            finally:
                with trio.move_on_after(1, shield=True):
                    await stream.aclose()
        except MyxoError as exc:
            log.debug("peer.gossip_ended", peer=peer, error=str(exc))
        finally:
            self._speaking -= 1
            self._spoken.set()
            self._spoken = trio.Event()
        if self._outboxes.get(peer) is not outbox:
            return
        self._close(peer)
        if not orderly:
            await self._speak_again(peer)

    async def _speak_again(self, peer: PeerId) -> None:
        """Begin anew with a peer that came back before this end knew that it had gone."""
        await trio.sleep(REDIAL_FIRST_S)
        if not self.is_connected(peer) or peer in self._outboxes:
            return
        if peer in self._respoken:
            await self._host.disconnect(peer)
        else:
            self._respoken.add(peer)
            self.open(peer)
