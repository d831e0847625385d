"""Who is connected, by which connections, and what is told of it.

A peer may have several: two that came of dialling each other at once, one through a relay and one
that is direct. Streams take the youngest direct one. A relayed one that a direct one has replaced
is outdated: what runs on it may end there, then it is closed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from overlay.addresses import Address
from overlay.connection import Connection
from overlay.names import PeerId

MAX_CONNECTIONS_PER_PEER = 4
"""Two come of dialling each other at once; a relayed one gives way, else the oldest."""

RETIRE_QUIET_S = 5.0
"""A relayed connection without streams that a direct one has replaced is closed after so long."""

RETIRE_IDLE_S = 60.0
"""One with streams is closed when none of them has carried anything for so long: what is meant to
stay open for longer is opened anew by its owner then, on the direct connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A peer with which there was no connection now has one."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The last connection with a peer is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Moved:
    """A peer that was reached through a relay is now connected directly.

    Streams that are open stay where they are; who keeps one for long does well to open another.
    """

    peer: PeerId


ConnectionEvent = Connected | Disconnected | Moved


class Connections:
    """The connections of a host, by peer.

    Args:
        nursery: runs the ends of connections that were replaced.

    Attributes:
        events: what is told. A reader that lags sees fewer of them, but for each peer the last it
            sees tells how things are, and a peer that was gone in between is told as gone and come.
        next_change: is set at the next change of who is connected, or how.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.events: trio.MemoryReceiveChannel[ConnectionEvent]
        self._told, self.events = trio.open_memory_channel[ConnectionEvent](0)
        self.next_change = trio.Event()
        self._nursery = nursery
        self._by_peer: dict[PeerId, list[Connection]] = {}
        self._meetings = 0
        self._met: dict[PeerId, int] = {}
        self._changed: OrderedDict[PeerId, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many connections there are."""
        return sum(map(len, self._by_peer.values()))

    def __iter__(self) -> Iterator[Connection]:
        """Yield every connection; they may change meanwhile."""
        for mine in list(self._by_peer.values()):
            yield from list(mine)

    def of(self, peer: PeerId) -> list[Connection]:
        """Return a peer's connections, the oldest first, those that just end included."""
        return list(self._by_peer.get(peer, ()))

    def peers(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection with."""
        return frozenset(peer for peer in self._by_peer if self.best(peer) is not None)

    def best(self, peer: PeerId, *, relayed: bool | None = None) -> Connection | None:
        """Return the youngest connection that lives, a direct one if there is, or of one kind."""
        live = (
            one
            for one in reversed(self._by_peer.get(peer, ()))
            if not one.is_closed and relayed in {None, one.relayed}
        )
        return min(live, key=lambda one: one.relayed, default=None)

    def is_direct(self, peer: PeerId) -> bool:
        """Whether there is a connection with `peer` that goes through no relay."""
        return self.best(peer, relayed=False) is not None

    def dialled_at(self, peer: PeerId) -> Address | None:
        """Return where a peer was dialled that is connected directly, None if it dialled."""
        for one in reversed(self._by_peer.get(peer, ())):
            if one.dialled and one.remote is not None and not one.is_closed:
                ip, port = one.remote
                return Address("ip6" if ":" in ip else "ip4", ip, port)
        return None

    def add(self, connection: Connection, met: Callable[[PeerId], None]) -> None:
        """Take in a connection that begins; `met` is called if its peer had none."""
        peer = connection.peer
        mine = self._by_peer.setdefault(peer, [])
        mine.append(connection)
        if len(mine) == 1:
            self._meetings += 1
            self._met[peer] = self._meetings
            met(peer)
        elif len(mine) > MAX_CONNECTIONS_PER_PEER:
            next((one for one in mine if one.relayed), mine[0]).cancel()
        self._note_change(peer)
        for one in mine:
            if one.relayed and not one.outdated and self.is_direct(peer):
                one.outdated = True
                self._nursery.start_soon(self._retire, one)

    def remove(self, connection: Connection) -> None:
        """Take in that a connection has ended."""
        peer = connection.peer
        mine = self._by_peer[peer]
        mine.remove(connection)
        if not mine:
            del self._by_peer[peer]
            del self._met[peer]
        self._note_change(peer)

    async def run(self) -> None:
        """Tell of events until cancelled."""
        told: dict[PeerId, int] = {}
        relayed: set[PeerId] = set()
        with self._told:
            while True:
                while self._changed:
                    peer, _ = self._changed.popitem(last=False)
                    await self._tell(peer, told, relayed)
                await self.next_change.wait()

    async def _tell(self, peer: PeerId, told: dict[PeerId, int], relayed: set[PeerId]) -> None:
        if peer in told and self._met.get(peer) != told[peer]:
            del told[peer]
            relayed.discard(peer)
            await self._told.send(Disconnected(peer))
        if peer not in self._met:
            return
        if peer not in told:
            told[peer] = self._met[peer]
            await self._told.send(Connected(peer))
        elif peer in relayed and self.is_direct(peer):
            await self._told.send(Moved(peer))
        (relayed.discard if self.is_direct(peer) else relayed.add)(peer)

    async def _retire(self, connection: Connection) -> None:
        """Close a relayed connection, which a direct one has replaced, once nothing runs on it."""
        while self.is_direct(connection.peer) and not connection.is_closed:
            most_s = RETIRE_IDLE_S if connection.open_streams else RETIRE_QUIET_S
            if connection.quiet_s >= most_s:
                connection.cancel()
                return
            await trio.sleep(RETIRE_QUIET_S)
        connection.outdated = False

    def _note_change(self, peer: PeerId) -> None:
        self._changed[peer] = None
        self.next_change.set()
        self.next_change = trio.Event()
