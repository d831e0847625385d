"""The lines between simulated peers, and what goes wrong on them.

A datagram is lost with a fixed chance and otherwise takes its own time, so that datagrams overtake
each other. What is posted to a connection arrives in order, later if a segment is lost, and waits
while the line is cut.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.sim.events import Events
from bench.sim.latency import Latency
from bench.sim.sizes import datagram_bytes, framed_bytes
from bench.sim.streams import Connection, Lane, StreamMessage, payload_bytes
from overlay.membership import Message, Update
from overlay.names import PeerId

if TYPE_CHECKING:
    from bench.sim.peer import Peer

HANDSHAKES = 3
"""RTTs that a connection takes: TCP, Noise, Yamux."""

DIAL_TIMEOUT_S = 5.0

RETRANSMIT_S, RETRANSMIT_MOST_S = 0.2, 5.0
"""TCP's first and longest wait before it sends a segment again."""

BYTES_PER_S = 12_500_000
"""What a connection carries: 100 Mbit/s."""


@dataclass(slots=True)
class Weather:
    """What holds for all lines and machines.

    Attributes:
        loss: share of datagrams and segments that are lost; may change at any time.
        drift: clocks count up to this much too fast or too slow.
    """

    loss: float = 0.01
    drift: float = 0.0001


class Lines:
    """Carries datagrams and connections between the running processes.

    Attributes:
        numbers: index of each peer.
        sides: peers on different sides do not reach each other.
    """

    def __init__(
        self,
        events: Events,
        latency: Latency,
        weather: Weather,
        rng: random.Random,
        peers: Sequence["Peer"],
        ids: Sequence[PeerId],
    ) -> None:
        self.weather = weather
        self.numbers = {peer: index for index, peer in enumerate(ids)}
        self.sides = [0] * len(ids)
        self._events = events
        self._latency = latency
        self._rng = rng
        self._peers = peers
        self._connections: dict[tuple[int, int], Connection] = {}

    def reaches(self, one: int, other: int) -> bool:
        """Whether the line between two peers is whole."""
        return self.sides[one] == self.sides[other]

    def cut(self, indices: Iterable[int], side: int) -> None:
        """Have these peers reach only each other."""
        for index in indices:
            self.sides[index] = side

    def heal(self) -> None:
        """Have everybody reach everybody again."""
        self.sides[:] = [0] * len(self.sides)

    # datagrams

    def send(self, source: "Peer", to: PeerId, message: Message, updates: Sequence[Update]) -> None:
        """Carry a datagram, sealed for the process that its sender knows of."""
        size = datagram_bytes(message, updates)
        source.sent_bytes += size
        one, other = source.index, self.numbers[to]
        if not self.reaches(one, other) or self._rng.random() < self.weather.loss:
            return
        arrives = self._events.now + self._latency.way(one, other, self._rng)
        life = source.life_of(to)
        self._events.at(arrives, self._arrive, source, other, life, message, updates, size)

    def _arrive(
        self,
        source: "Peer",
        to: int,
        life: int | None,
        message: Message,
        updates: Sequence[Update],
        size: int,
    ) -> None:
        peer = self._peers[to]
        self._events.note(b"d", source.index, to, size)
        if peer.up and peer.life == life:
            peer.received_bytes += size
            peer.take_datagram(self._unseal, source, peer, message, updates)

    @staticmethod
    def _unseal(source: "Peer", peer: "Peer", message: Message, updates: Sequence[Update]) -> None:
        if peer.up and peer.life_of(source.id) == source.life:
            peer.hear(source.id, message, updates)

    # connections

    def link(self, one: "Peer", other: "Peer") -> Connection:
        """Return the connection of two peers that have had it from the start."""
        pair = self._pair(one.index, other.index)
        if pair not in self._connections:
            ends = ((one.index, one.life), (other.index, other.life))
            self._connections[pair] = Connection(ends)
        return self._connections[pair]

    def connect(
        self, source: "Peer", to: PeerId, done: Callable[[Connection | None], None]
    ) -> None:
        """Connect two processes, or tell `done` of the connection that there is."""
        there = self._connections.get(self._pair(source.index, self.numbers[to]))
        if there is not None and there.up and (source.index, source.life) in there.ends:
            done(there)
            return
        other = self.numbers[to]
        took = HANDSHAKES * self._latency.rtt(source.index, other)
        self._events.after(took, self._dial, source, other, done)

    def _dial(self, source: "Peer", to: int, done: Callable[[Connection | None], None]) -> None:
        target = self._peers[to]
        if not target.up or not self.reaches(source.index, to):
            self._events.after(DIAL_TIMEOUT_S, done, None)
        elif target.stopped:
            self._events.after(RETRANSMIT_S, self._dial, source, to, done)
        else:
            self._handshake(source, target, done)

    def _handshake(
        self, source: "Peer", target: "Peer", done: Callable[[Connection | None], None]
    ) -> None:
        if not source.up:
            return
        pair = self._pair(source.index, target.index)
        connection = self._connections.get(pair)
        ends = ((source.index, source.life), (target.index, target.life))
        if connection is None or not connection.up or set(connection.ends) != set(ends):
            connection = self._connections[pair] = Connection(ends)
            self._events.note(b"c", source.index, target.index)
            source.take(source.links.connected, target.id, connection)
            target.take(target.links.connected, source.id, connection)
        done(connection)

    def disconnect(self, connection: Connection) -> None:
        """Close a connection; each end is told when it can be."""
        if connection.up:
            connection.up = False
            (one, _), (other, _) = connection.ends
            self._tell_end(connection, one)
            self._tell_end(connection, other)

    def _tell_end(self, connection: Connection, index: int) -> None:
        other, _ = connection.end_beyond(index)
        if self.reaches(index, other):
            took = self._latency.way(other, index, self._rng)
            self._events.after(took, self._ended, connection, index)

    def _ended(self, connection: Connection, index: int) -> None:
        peer = self._peers[index]
        if peer.up and (index, peer.life) in connection.ends:
            other, _ = connection.end_beyond(index)
            peer.take(peer.links.disconnected, self._peers[other].id, connection)

    def post(self, source: "Peer", over: Connection, message: StreamMessage) -> None:
        """Carry a message in order."""
        size = framed_bytes(payload_bytes(message))
        source.sent_bytes += size
        if not over.up:
            self._tell_end(over, source.index)
            return
        lane = over.lane_from(source.index)
        lane.waiting.append((message, size))
        if not lane.stuck:
            self._flush(over, source, lane)

    def _flush(self, over: Connection, source: "Peer", lane: Lane) -> None:
        other, life = over.end_beyond(source.index)
        one = source.index
        lane.stuck, before = 0.0, lane.stuck
        while lane.waiting and over.up and source.up:
            if not self.reaches(one, other):
                lane.stuck = min(max(2 * before, RETRANSMIT_S), RETRANSMIT_MOST_S)
                self._events.after(lane.stuck, self._flush, over, source, lane)
                return
            message, size = lane.waiting.popleft()
            took = self._latency.way(one, other, self._rng)
            wait = RETRANSMIT_S
            while self._rng.random() < self.weather.loss and wait < RETRANSMIT_MOST_S:
                took += wait
                wait *= 2
            lane.clear_at = max(lane.clear_at, self._events.now + took) + size / BYTES_PER_S
            self._events.at(lane.clear_at, self._deliver, over, source, other, life, message, size)

    def _deliver(
        self,
        over: Connection,
        source: "Peer",
        to: int,
        life: int,
        message: StreamMessage,
        size: int,
    ) -> None:
        peer = self._peers[to]
        self._events.note(b"s", source.index, to, size)
        if over.up and peer.up and peer.life == life:
            peer.received_bytes += size
            peer.take(peer.gossip.hear, source.id, over, message)

    def hang_up(self, index: int) -> None:
        """Close every connection of a peer whose process has ended."""
        for pair, connection in list(self._connections.items()):
            if index in pair and connection.up:
                connection.up = False
                other, _ = connection.end_beyond(index)
                self._tell_end(connection, other)

    @staticmethod
    def _pair(one: int, other: int) -> tuple[int, int]:
        return (one, other) if one < other else (other, one)
