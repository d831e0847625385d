"""A simulated peer: the overlay's cores, a clock of its own, and what `probing.py` does around them.

Its gossip streams are in `gossip.py`. The true time is the world's; what the cores are told is what
this peer's clock shows.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from bench.sim.gossip import Gossiping
from bench.sim.streams import Connection, Enclosed, StreamMessage
from bench.sim.table import Founding, Table, peer_key
from overlay.coordinates import Coordinates
from overlay.digest import Key, Stamp
from overlay.names import PeerId
from overlay.swim import (
    Change,
    Datagram,
    Effects,
    Knobs,
    MemberState,
    Membership,
    Message,
    Update,
)

TICK_MIN_S, TICK_MAX_S, STALL_S = 0.01, 1.0, 0.15
"""As in `probing.py`."""

SOCKET_BACKLOG = 200
"""Datagrams that the socket of a stopped process keeps: some 200 KiB, Linux's default."""

LEAVE_S = 0.2
"""From the goodbye to the end of the process."""

_THERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})
_SIGNATURE = bytes(64)


class Network(Protocol):
    """What a peer needs of the world around it."""

    ids: Sequence[PeerId]
    founding: Founding
    notices_stalls: bool

    @property
    def now(self) -> float:
        """Return the true time."""
        ...

    def at(self, time: float, act: Callable[..., None], *args: Any) -> None:
        """Have something done at a true time."""
        ...

    def send(self, source: "Peer", to: PeerId, message: Message, updates: Sequence[Update]) -> None:
        """Send a datagram, which may be lost."""
        ...

    def post(self, source: "Peer", over: Connection, message: StreamMessage) -> None:
        """Send over a stream."""
        ...

    def connect(self, source: "Peer", to: PeerId, done: Callable[[Connection | None], None]) -> None:
        """Make a connection, or take the one that there is; `done` is told None if it fails."""
        ...

    def disconnect(self, connection: Connection) -> None:
        """Close a connection."""
        ...

    def bootstrap(self, source: "Peer") -> PeerId | None:
        """Return a peer that a newcomer may ask."""
        ...

    def life(self, peer: PeerId, epoch: float) -> int:
        """Return which of the peer's lives began with that epoch."""
        ...

    def changed(self, observer: "Peer", change: Change) -> None:
        """Be told what a peer now believes."""
        ...

    def learned(self, observer: "Peer", key: Key, stamp: Stamp) -> None:
        """Be told of a record that was new to a peer."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """What a machine's clock shows, as against the true time.

    Attributes:
        ahead: seconds, at the true time 0.
        rate: seconds that it counts in a true one.
    """

    ahead: float = 0.0
    rate: float = 1.0

    def shows(self, true: float) -> float:
        """Return what it shows at a true time."""
        return self.ahead + self.rate * true

    def true(self, shown: float) -> float:
        """Return the true time at which it shows this."""
        return (shown - self.ahead) / self.rate


class Peer:
    """One process, from its start to its end.

    Attributes:
        index: among all peers; its id is `ids[index]`.
        life: how many processes this peer had before.
        epoch: wall clock at its start.
        up: the process exists.
        stopped: it does not run at the moment.
        sent_bytes: on the network; `received_bytes` likewise.
    """

    __slots__ = (
        "_backlog",
        "_inbox",
        "_lives",
        "_members",
        "_network",
        "_wake_at",
        "clock",
        "coordinates",
        "epoch",
        "gossip",
        "id",
        "index",
        "life",
        "membership",
        "received_bytes",
        "rng",
        "sent_bytes",
        "stopped",
        "table",
        "up",
    )

    def __init__(
        self,
        network: Network,
        index: int,
        life: int,
        epoch: float,
        *,
        clock: Clock,
        knobs: Knobs,
        rng: random.Random,
        founding: Founding,
    ) -> None:
        self._network = network
        self.index = index
        self.id = network.ids[index]
        self.life = life
        self.epoch = epoch
        self.clock = clock
        self.rng = rng
        self.up = True
        self.stopped = False
        self.sent_bytes = self.received_bytes = 0
        self.coordinates = Coordinates(rng)
        self.membership = Membership(
            self.id,
            incarnation_of(epoch),
            knobs,
            rng=rng,
            coordinates=self.coordinates,
            sign=lambda _kind, _incarnation: _SIGNATURE,
            verify=lambda update: update.signature == _SIGNATURE,
        )
        self.table = Table(founding)
        self.gossip = Gossiping(self, network)
        self._lives: dict[PeerId, int] = {}
        self._members: int | None = None
        self._wake_at = inf
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._backlog = 0
        self.table.put(peer_key(self.id), (epoch, 0))
        self.table.count(self.id, member=True)

    @property
    def local(self) -> float:
        """Return what this peer's clock shows now."""
        return self.clock.shows(self._network.now)

    def is_member(self, peer: PeerId) -> bool:
        """Whether this peer believes that `peer` is there; it itself is."""
        return peer == self.id or self.membership.state(peer) in _THERE

    def count_members(self) -> int:
        """Return how many others this peer believes to be there."""
        if self._members is None:
            self._members = sum(1 for _ in self.membership.members())
        return self._members

    def life_of(self, peer: PeerId) -> int | None:
        """Return which life of `peer` this one holds the record, and so the datagram key, of."""
        life = self._lives.get(peer)
        if life is None and peer_key(peer) in self.table.founding.stamps:
            return 0
        return life

    # what happens to it

    def hear(
        self, source: PeerId, message: Message, updates: Sequence[Update], *, reliable: bool = False
    ) -> None:
        """Take in a membership message."""
        effects = self.membership.receive(source, message, updates, self.local, reliable=reliable)
        self.apply(effects, source)

    def learn(self, peer: PeerId, epoch: float) -> None:
        """Take in that a record of `peer` is held which was signed in that epoch."""
        self._lives[peer] = self._network.life(peer, epoch)
        self.apply(self.membership.learn(peer, incarnation_of(epoch), self.local))

    def lost(self, peer: PeerId) -> None:
        """Take in that the connection to `peer` ended."""
        self.apply(self.membership.cut(peer, self.local))

    def probe(self, peer: PeerId) -> None:
        """Probe a peer that was met."""
        self.apply(self.membership.probe(peer, self.local))

    def leave(self) -> None:
        """Say goodbye; the process ends soon."""
        effects = self.membership.leave(self.local)
        self.apply(effects)
        for datagram in effects.datagrams[:1]:
            self.gossip.tell(Enclosed(datagram.message, datagram.updates))

    def apply(self, effects: Effects, source: PeerId | None = None) -> None:
        """Do what membership decided."""
        for change in effects.changes:
            self._members = None
            self.table.count(change.peer, member=change.state in _THERE)
            self._network.changed(self, change)
            self.gossip.changed(change)
        for datagram in effects.datagrams:
            self._send(datagram)
        if effects.unknown and source is not None:
            self.gossip.ask(source, [peer for peer in effects.unknown if peer != source])
        self._arm()

    def _send(self, datagram: Datagram) -> None:
        if datagram.reliable:
            self.gossip.enclose(datagram)
        else:
            self._network.send(self, datagram.to, datagram.message, datagram.updates)

    # time

    def _arm(self) -> None:
        """See that `_wake` is called when membership has something to do, as the shell does."""
        now = self.local
        due = min(max(self.membership.next_wake(), now + TICK_MIN_S), now + TICK_MAX_S)
        true = self.clock.true(due)
        if true < self._wake_at:
            self._wake_at = true
            self._network.at(true, self._wake, true)

    def _wake(self, due: float) -> None:
        if self.up and not self.stopped and due == self._wake_at:
            self._wake_at = inf
            self.apply(self.membership.tick(self.local))

    def start(self) -> None:
        """Begin to keep time and compare digests."""
        self._arm()
        self.gossip.start()

    def stop(self) -> None:
        """Have the process stand still."""
        self.stopped = True

    def resume(self) -> None:
        """Have it run again, with whatever came in meanwhile, in no certain order."""
        if not self.up or not self.stopped:
            return
        self.stopped = False
        first = self.rng.random() < 0.5
        if first:
            self._notice_stall()
        waiting, self._inbox, self._backlog = self._inbox, [], 0
        for act, args in waiting:
            act(*args)
        if not first:
            self._notice_stall()
        self._wake_at = inf
        self.apply(self.membership.tick(self.local))

    def _notice_stall(self) -> None:
        late = self.local - self.clock.shows(min(self._wake_at, self._network.now))
        if late > STALL_S and self._network.notices_stalls:
            self.membership.stood_still(late)

    def take(self, act: Callable[..., None], *args: Any, datagram: bool = False) -> None:
        """Have `act` done by this process: now, or when it runs again."""
        if not self.stopped:
            act(*args)
        elif not datagram or self._backlog < SOCKET_BACKLOG:
            self._backlog += datagram
            self._inbox.append((act, args))


def incarnation_of(epoch: float) -> int:
    """Return the incarnation that a process begins with."""
    return int(epoch * 1000) << 16
