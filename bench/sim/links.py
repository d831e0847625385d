"""Whom a simulated peer is connected to, and keeps gossip streams to: `links.py` of the overlay.

One liberty is taken: in a large network neighbours are chosen anew only when one of them is gone or
others come. The overlay asks more often, and is then told to keep those it has.

Two rules go beyond the overlay's. A neighbour is told whether it is wanted only when that has
changed: telling it at each choice makes it choose anew and tell its own neighbours, without end.
And whoever comes, or comes back, is chosen with a certain chance, see `_consider`.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from bench.sim.network import Network
from bench.sim.streams import Connection, Farewell, StreamMessage
from overlay.entrances import REDIAL_FIRST_S, REDIAL_MOST_S
from overlay.links import COURTESY_S, RECHOOSE_S
from overlay.membership import Change, MemberState
from overlay.names import PeerId
from overlay.neighbours import FAR, FULL_MESH, choose

if TYPE_CHECKING:
    from bench.sim.peer import Peer


class Links:
    """The connections and streams of one peer.

    Attributes:
        chosen: the neighbours that this peer wants.
        settled: it knows the network; until then it wants every link.
    """

    __slots__ = (
        "_chosen_by",
        "_connections",
        "_network",
        "_peer",
        "_rechoosing",
        "_seeking",
        "_streams",
        "_suspects",
        "_told",
        "chosen",
        "settled",
    )

    def __init__(self, peer: "Peer", network: Network) -> None:
        self.chosen: frozenset[PeerId] = frozenset()
        self.settled = True
        self._peer = peer
        self._network = network
        self._connections: dict[PeerId, Connection] = {}
        self._streams: dict[PeerId, Connection] = {}
        """Those to neighbours."""
        self._told: dict[PeerId, bool] = {}
        """Whether a neighbour was last told that it is wanted."""
        self._chosen_by: dict[PeerId, None] = {}
        self._suspects: dict[PeerId, None] = {}
        self._seeking: dict[PeerId, None] = {}
        self._rechoosing = False

    @property
    def is_large(self) -> bool:
        """Whether not everybody is everybody's neighbour."""
        return self._peer.count_members() > FULL_MESH

    def neighbours(self) -> list[PeerId]:
        """Return the peers that there is a stream to, in a certain order."""
        return list(self._streams)

    def is_connected(self, peer: PeerId, by: Connection | None = None) -> bool:
        """Whether there is a connection to `peer`, or that very one."""
        connection = self._connections.get(peer)
        return connection is not None and by in {None, connection}

    def post(self, peer: PeerId, message: StreamMessage) -> bool:
        """Post to a neighbour; False if it is none."""
        connection = self._streams.get(peer)
        if connection is not None:
            self._network.lines.post(self._peer, connection, message)
        return connection is not None

    def connect(
        self, peer: PeerId, done: Callable[[Connection | None], None] | None = None
    ) -> None:
        """Make a connection; `done` is told None if it fails."""
        self._network.lines.connect(self._peer, peer, done or (lambda _made: None))

    # what it is told

    def begin(self, peer: PeerId, connection: Connection, *, mutual: bool) -> None:
        """Take in a link that has long been there, and whether the other end chose it."""
        self._connections[peer] = self._streams[peer] = connection
        self._told[peer] = peer in self.chosen
        if mutual:
            self._chosen_by[peer] = None

    def connected(self, peer: PeerId, connection: Connection) -> None:
        """Take in that there is a connection to `peer`, maybe in place of one that has ended."""
        before = self._connections.get(peer)
        if before is not None:
            self.disconnected(peer, before)
        self._connections[peer] = connection
        if self._wants(peer) or not self.is_large:
            self.open(peer)

    def disconnected(self, peer: PeerId, connection: Connection) -> None:
        """Take in that a connection to `peer` has ended."""
        if self._connections.get(peer) is connection:
            self._forget(peer)
            self._peer.lost(peer)
            self.reconsider()

    def told_choice(self, peer: PeerId, *, chosen: bool) -> None:
        """Take in whether `peer` wants the link."""
        self.open(peer)
        if chosen:
            self._chosen_by[peer] = None
            return
        self._chosen_by.pop(peer, None)
        if self.settled and self.is_large:
            self.reconsider()

    def fell_silent(self, peer: PeerId) -> None:
        """Take in that `peer` ended its stream in good order."""
        self._chosen_by.pop(peer, None)
        if peer not in self.chosen:
            self._close(peer)

    def changed(self, change: Change) -> None:
        """Take in what the peer now believes of another."""
        came = change.state is MemberState.ALIVE and change.peer not in self._suspects
        self._suspects.pop(change.peer, None)
        if change.state is MemberState.SUSPECT:
            self._suspects[change.peer] = None
        elif change.state is not MemberState.ALIVE:
            self._drop(change.peer)
        if not self.is_large or change.peer in self.chosen:
            self.reconsider()
        elif came and self.settled:
            self._consider(change.peer)

    def settle(self) -> None:
        """Take in that this peer knows the network; from now on it is choosy."""
        self.settled = True
        self.reconsider()

    # choosing

    def reconsider(self) -> None:
        """Choose neighbours anew soon."""
        if not self._rechoosing:
            self._rechoosing = True
            self._peer.later(RECHOOSE_S, self._rechoose)

    def open(self, peer: PeerId) -> None:
        """Have a gossip stream to a connected peer."""
        if peer not in self._streams and peer in self._connections:
            self._streams[peer] = self._connections[peer]
            self._say_choice(peer)

    def _wants(self, peer: PeerId) -> bool:
        return peer in self.chosen or not self.settled

    def _say_choice(self, peer: PeerId) -> None:
        self._told[peer] = self._wants(peer)
        self._peer.gossip.greet(peer, chosen=self._told[peer])

    def _consider(self, newcomer: PeerId) -> None:
        """Choose one that came, or came back, with the chance that it would have had before.

        So the choices stay evenly spread over whoever is there. Without it two halves of a network
        that were apart would never choose each other again.
        """
        rng = self._peer.rng
        if rng.random() < FAR / self._peer.count_members():
            leaver = rng.choice(sorted(self.chosen))
            self.chosen = self.chosen - {leaver} | {newcomer}
            self.reconsider()

    def _rechoose(self) -> None:
        self._rechoosing = False
        self.chosen = choose(self._distances(), self.chosen, self._peer.rng)
        for peer in sorted(self.chosen):
            if peer in self._connections:
                self.open(peer)
            elif peer not in self._seeking:
                self._seeking[peer] = None
                wait = COURTESY_S if self.settled else 0.0
                self._peer.later(wait, self._seek, peer, REDIAL_FIRST_S)
        if self.settled and self.is_large:
            self._part()

    def _part(self) -> None:
        """Close the streams that neither end has chosen; tell those of whom the choice changed."""
        for peer in self.neighbours():
            chosen = peer in self.chosen
            if not chosen and peer not in self._chosen_by and self._peer.is_member(peer):
                self._close(peer)
            elif self._told[peer] is not chosen:
                self._say_choice(peer)

    def _seek(self, peer: PeerId, delay: float) -> None:
        """Dial a chosen peer until it is connected or no longer chosen."""
        if peer in self._connections or peer not in self.chosen:
            self._seeking.pop(peer, None)
            return

        def done(made: Connection | None) -> None:
            if made is not None:
                self._seeking.pop(peer, None)
            else:
                self._peer.later(delay, self._seek, peer, min(2 * delay, REDIAL_MOST_S))

        self.connect(peer, done)

    def _distances(self) -> dict[PeerId, float]:
        membership, coordinates = self._peer.membership, self._peer.coordinates
        distances = {}
        for peer in membership.members():
            rtt, guess = membership.rtt(peer), coordinates.estimate(peer)
            if rtt is not None:
                distances[peer] = rtt.smoothed_rtt
            else:
                distances[peer] = inf if guess is None else guess.rtt_s
        return distances

    # ends

    def _close(self, peer: PeerId) -> None:
        if self.post(peer, Farewell()):
            del self._streams[peer]

    def _drop(self, peer: PeerId) -> None:
        """Have nothing to do with a peer that is gone."""
        connection = self._connections.get(peer)
        self._forget(peer)
        if connection is not None:
            self._network.lines.disconnect(connection)

    def _forget(self, peer: PeerId) -> None:
        self._connections.pop(peer, None)
        self._streams.pop(peer, None)
        self._chosen_by.pop(peer, None)
