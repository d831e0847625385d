"""The simulated network: all peers, the lines between them, and what goes wrong.

A datagram is lost with a fixed chance and otherwise takes its own time, so that datagrams overtake
each other. What is posted to a connection arrives in order, later if a segment is lost, and waits
while the line is cut.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.sim.events import Events
from bench.sim.latency import Latency
from bench.sim.peer import LEAVE_S, Clock, Peer, incarnation_of
from bench.sim.sizes import datagram_bytes, framed_bytes
from bench.sim.streams import Connection, Lane, StreamMessage, payload_bytes
from bench.sim.table import Founding, peer_key
from overlay.digest import Key, Stamp
from overlay.names import PeerId
from overlay.neighbours import choose
from overlay.swim import Change, Knobs, MemberState, Message, Update

EPOCH = 1_763_726_400.0
"""Wall clock at the true time 0."""

DRIFT = 0.0001
"""Clocks of ordinary machines count 100 millionths too fast or too slow at the most."""

HANDSHAKES = 3
"""RTTs that a connection takes: TCP, Noise, Yamux."""

DIAL_TIMEOUT_S = 5.0

RETRANSMIT_S, RETRANSMIT_MOST_S = 0.2, 5.0
"""TCP's first and longest wait before it sends a segment again."""

BYTES_PER_S = 12_500_000
"""What a connection carries: 100 Mbit/s."""


@dataclass(slots=True)
class Weather:
    """What holds for all lines and machines, and may be changed at any time.

    Attributes:
        loss: share of datagrams and segments that are lost.
        drift: clocks are made to count up to this much too fast or too slow.
    """

    loss: float = 0.01
    drift: float = DRIFT


class World:
    """All peers, and the only clock that is right.

    Attributes:
        peers: the running process of each, or the last one it had.
        sides: peers on different sides do not reach each other.
        watch: told of every change of what a peer believes, with the peer that it is about.
        arrivals: told of every record that was new to a peer.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        latency: Callable[[int, random.Random], Latency],
        *,
        knobs: Knobs,
        weather: Weather | None = None,
        notices_stalls: bool = True,
    ) -> None:
        self.size = size
        self.seed = seed
        self.knobs = knobs
        self.notices_stalls = notices_stalls
        self.weather = weather or Weather()
        self.events = Events()
        self.rng = random.Random(f"{seed}/world")
        self.latency = latency(size, self.rng)
        self.ids = [PeerId(f"peer-{index:05}") for index in range(size)]
        self.sides = [0] * size
        self.watch: list[Callable[[Peer, Change, Peer], None]] = []
        self.arrivals: list[Callable[[Peer, Key, Stamp], None]] = []
        self.published: dict[Key, Stamp] = {}
        self._numbers = {peer: index for index, peer in enumerate(self.ids)}
        self._connections: dict[tuple[int, int], Connection] = {}
        self._epochs = [[EPOCH - self.rng.uniform(0, 86400)] for _ in self.ids]
        stamps = {peer_key(p): (self._epochs[i][0], 0) for i, p in enumerate(self.ids)}
        self.founding = Founding(stamps)
        self.peers = [self._process(index, self.founding) for index in range(size)]
        self._acquaint()
        self._link()
        for peer in self.peers:
            peer.start()

    @property
    def now(self) -> float:
        """Return the true time, in seconds since the start."""
        return self.events.now

    def at(self, time: float, act: Callable[..., None], *args: Any) -> None:
        """Have something done at a true time."""
        self.events.at(time, act, *args)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.events.run(self.now + seconds)

    def run_until(self, holds: Callable[[], bool], within: float, step: float = 0.5) -> bool:
        """Let time pass until something holds; return False if it does not within that time."""
        end = self.now + within
        while not holds():
            if self.now >= end:
                return False
            self.run(min(step, end - self.now))
        return True

    def up(self) -> list[Peer]:
        """Return the peers whose process exists."""
        return [peer for peer in self.peers if peer.up]

    # what is done to it

    def crash(self, index: int) -> None:
        """Have a machine gone at once, without a word from anybody."""
        self.events.note(b"C", index, 0)
        self.peers[index].up = False

    def kill(self, index: int) -> None:
        """Have a process gone; its machine closes its connections."""
        self.events.note(b"K", index, 0)
        self.peers[index].up = False
        self._hang_up(index)

    def leave(self, index: int) -> None:
        """Have a process say goodbye and end."""
        self.events.note(b"L", index, 0)
        peer = self.peers[index]
        peer.leave()
        self.at(self.now + LEAVE_S, self._end, peer)

    def restart(self, index: int) -> None:
        """Have a peer's process started anew: it knows only its key and a bootstrap node."""
        self.events.note(b"R", index, 0)
        self.peers[index].up = False
        self._hang_up(index)
        self._epochs[index].append(EPOCH + self.now)
        self.peers[index] = self._process(index, Founding({}))
        self.peers[index].start()

    def cut(self, indices: Iterable[int], side: int) -> None:
        """Have these peers reach only each other."""
        for index in indices:
            self.events.note(b"P", index, side)
            self.sides[index] = side

    def heal(self) -> None:
        """Have everybody reach everybody again."""
        self.events.note(b"H", 0, 0)
        self.sides = [0] * self.size

    def stop(self, index: int, seconds: float) -> None:
        """Have a process stand still for so long."""
        peer = self.peers[index]
        if peer.up and not peer.stopped:
            self.events.note(b"S", index, 0)
            peer.stop()
            self.at(self.now + seconds, peer.resume)

    def publish(self, index: int, name: str) -> tuple[Key, Stamp]:
        """Have a peer publish a new version of one of its instances' records."""
        peer = self.peers[index]
        key, stamp = peer.gossip.publish(name)
        self.published[key] = stamp
        self.events.note(b"N", index, 0, stamp[1])
        return key, stamp

    # what peers ask of it

    def send(self, source: Peer, to: PeerId, message: Message, updates: Sequence[Update]) -> None:
        """Carry a datagram, sealed for the process that its sender knows of."""
        size = datagram_bytes(message, updates)
        source.sent_bytes += size
        one, other = source.index, self._numbers[to]
        if self.sides[one] != self.sides[other] or self.rng.random() < self.weather.loss:
            return
        arrives = self.now + self.latency.way(one, other, self.rng)
        life = source.life_of(to)
        self.events.at(arrives, self._arrive, source, other, life, message, updates, size)

    def _arrive(
        self,
        source: Peer,
        to: int,
        life: int | None,
        message: Message,
        updates: Sequence[Update],
        size: int,
    ) -> None:
        peer = self.peers[to]
        self.events.note(b"d", source.index, to, size)
        if peer.up and peer.life == life:
            peer.received_bytes += size
            peer.take(self._unseal, source, peer, message, updates, datagram=True)

    @staticmethod
    def _unseal(source: Peer, peer: Peer, message: Message, updates: Sequence[Update]) -> None:
        if peer.up and peer.life_of(source.id) == source.life:
            peer.hear(source.id, message, updates)

    def connect(self, source: Peer, to: PeerId, done: Callable[[Connection | None], None]) -> None:
        """Connect two processes, or tell `done` of the connection that there is."""
        there = self._connections.get(self._pair(source.index, self._numbers[to]))
        if there is not None and there.up and (source.index, source.life) in there.ends:
            done(there)
            return
        other = self._numbers[to]
        took = HANDSHAKES * self.latency.rtt(source.index, other)
        self.at(self.now + took, self._handshake, source, other, done)

    def _handshake(
        self, source: Peer, to: int, done: Callable[[Connection | None], None]
    ) -> None:
        target = self.peers[to]
        if not source.up:
            return
        if not target.up or self.sides[source.index] != self.sides[to]:
            self.at(self.now + DIAL_TIMEOUT_S, done, None)
            return
        pair = self._pair(source.index, to)
        connection = self._connections.get(pair)
        ends = ((source.index, source.life), (to, target.life))
        if connection is None or not connection.up or set(connection.ends) != set(ends):
            connection = self._connections[pair] = Connection(ends)
            self.events.note(b"c", source.index, to)
            source.take(source.gossip.connected, target.id, connection)
            target.take(target.gossip.connected, source.id, connection)
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
        if self.sides[index] == self.sides[other]:
            arrives = self.now + self.latency.way(other, index, self.rng)
            self.at(arrives, self._ended, connection, index)

    def _ended(self, connection: Connection, index: int) -> None:
        peer = self.peers[index]
        if peer.up and (index, peer.life) in connection.ends:
            other, _ = connection.end_beyond(index)
            peer.take(peer.gossip.disconnected, self.ids[other], connection)

    def post(self, source: Peer, over: Connection, message: StreamMessage) -> None:
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

    def _flush(self, over: Connection, source: Peer, lane: Lane) -> None:
        other, life = over.end_beyond(source.index)
        one = source.index
        lane.stuck, before = 0.0, lane.stuck
        while lane.waiting and over.up and source.up:
            if self.sides[one] != self.sides[other]:
                lane.stuck = min(max(2 * before, RETRANSMIT_S), RETRANSMIT_MOST_S)
                self.at(self.now + lane.stuck, self._flush, over, source, lane)
                return
            message, size = lane.waiting.popleft()
            took = self.latency.way(one, other, self.rng) + size / BYTES_PER_S
            wait = RETRANSMIT_S
            while self.rng.random() < self.weather.loss and wait < RETRANSMIT_MOST_S:
                took += wait
                wait *= 2
            lane.clear_at = max(lane.clear_at, self.now + took)
            self.at(lane.clear_at, self._deliver, over, source, other, life, message, size)

    def _deliver(
        self, over: Connection, source: Peer, to: int, life: int, message: StreamMessage, size: int
    ) -> None:
        peer = self.peers[to]
        self.events.note(b"s", source.index, to, size)
        if over.up and peer.up and peer.life == life:
            peer.received_bytes += size
            peer.take(peer.gossip.hear, source.id, over, message)

    def bootstrap(self, source: Peer) -> PeerId | None:
        """Return a random peer that runs and can be reached."""
        side = self.sides[source.index]
        others = [p for p in self.up() if p is not source and self.sides[p.index] == side]
        return self.rng.choice(others).id if others else None

    def life(self, peer: PeerId, epoch: float) -> int:
        """Return which of the peer's lives began with that epoch."""
        return self._epochs[self._numbers[peer]].index(epoch)

    def changed(self, observer: Peer, change: Change) -> None:
        """Pass on what a peer now believes."""
        about = self._numbers[change.peer]
        self.events.note(b"m", observer.index, about, _LETTERS[change.state])
        for watch in self.watch:
            watch(observer, change, self.peers[about])

    def learned(self, observer: Peer, key: Key, stamp: Stamp) -> None:
        """Pass on what a peer now holds."""
        self.events.note(b"r", observer.index, self._numbers[key[0]], stamp[1])
        for arrived in self.arrivals:
            arrived(observer, key, stamp)

    # how it begins

    def _process(self, index: int, founding: Founding) -> Peer:
        life = len(self._epochs[index]) - 1
        drift = self.weather.drift
        drawn = random.Random(f"{self.seed}/clock/{index}")
        clock = Clock(drawn.uniform(0, 1e6), 1 + drawn.uniform(-drift, drift))
        return Peer(
            self,
            index,
            life,
            self._epochs[index][-1],
            clock=clock,
            knobs=self.knobs,
            rng=random.Random(f"{self.seed}/peer/{index}/{life}"),
            founding=founding,
        )

    def _acquaint(self) -> None:
        """Have every founder know every other, as if they had long been together."""
        everybody = [(peer.id, incarnation_of(peer.epoch)) for peer in self.peers]
        for peer in self.peers:
            now = peer.local
            learn = peer.membership.learn
            for other, incarnation in everybody:
                learn(other, incarnation, now)  # of itself, a peer learns nothing

    def _link(self) -> None:
        """Have every founder choose its neighbours, by their true distance."""
        chosen = []
        for peer in self.peers:
            distances = {
                other: self.latency.rtt(peer.index, index)
                for index, other in enumerate(self.ids)
                if index != peer.index
            }
            chosen.append(choose(distances, (), peer.rng))
            peer.gossip.settled_with(chosen[-1])
        for peer in self.peers:
            for other in sorted(chosen[peer.index]):
                self._link_pair(peer, self.peers[self._numbers[other]], chosen)

    def _link_pair(self, one: Peer, other: Peer, chosen: Sequence[frozenset[PeerId]]) -> None:
        pair = self._pair(one.index, other.index)
        if pair not in self._connections:
            ends = ((one.index, one.life), (other.index, other.life))
            made = self._connections[pair] = Connection(ends)
            mutual = one.id in chosen[other.index]
            one.gossip.linked(other.id, made, chosen_by_it=mutual)
            other.gossip.linked(one.id, made, chosen_by_it=True)

    def _end(self, peer: Peer) -> None:
        if peer.up:
            peer.up = False
            if self.peers[peer.index] is peer:
                self._hang_up(peer.index)

    def _hang_up(self, index: int) -> None:
        for pair, connection in list(self._connections.items()):
            if index in pair and connection.up:
                connection.up = False
                other, _ = connection.end_beyond(index)
                self._tell_end(connection, other)

    @staticmethod
    def _pair(one: int, other: int) -> tuple[int, int]:
        return (one, other) if one < other else (other, one)


_LETTERS = {state: number for number, state in enumerate(MemberState)}
