"""A simulated peer: the overlay's cores, and around them what `probing.py` does in the overlay.

The true time is the world's; what the cores are told is what this peer's own clock shows.
"""

import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from bench.sim.clock import Clock
from bench.sim.gossip import Gossiping
from bench.sim.links import Links
from bench.sim.network import Network
from bench.sim.streams import Enclosed
from bench.sim.table import Founding, Table, peer_key
from overlay.coordinates import Coordinates
from overlay.membership import (
    Alive,
    Datagram,
    Effects,
    Knobs,
    Left,
    Membership,
    MemberState,
    Message,
    Update,
    incarnation_of,
)
from overlay.names import PeerId
from overlay.probing import STALL_S, TICK_MAX_S, TICK_MIN_S

SOCKET_BACKLOG = 200
"""Datagrams that the socket of a stopped process keeps: some 200 KiB, Linux's default."""

LEAVE_S = 0.2
"""From the goodbye to the end of the process."""

_THERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})
_SIGNATURE = bytes(64)


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
        "links",
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
        self.table.put(peer_key(self.id), (epoch, 0))
        self.table.count(self.id, member=True)
        self.links = Links(self, network)
        self.gossip = Gossiping(self, network)
        self._lives: dict[PeerId, int] = {}
        self._members: int | None = None
        self._wake_at = inf
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._backlog = 0

    @property
    def local(self) -> float:
        """Return what this peer's clock shows now."""
        return self.clock.shows(self._network.events.now)

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
        if life is None and self.table.founding.stamps:
            return 0  # every peer was a founder once
        return life

    # what happens to it

    def start(self) -> None:
        """Begin to keep time, and to gossip."""
        self._arm()
        self.gossip.start()

    def hear(
        self, source: PeerId, message: Message, updates: Sequence[Update], *, reliable: bool = False
    ) -> None:
        """Take in a membership message; of updates from one that is gone here only what counts."""
        if not self.is_member(source):
            updates = [u for u in updates if isinstance(u, Alive | Left) or u.peer == self.id]
        effects = self.membership.receive(source, message, updates, self.local, reliable=reliable)
        self._apply(effects, source)

    def learn(self, peer: PeerId, epoch: float) -> None:
        """Take in that a record of `peer` is held which was signed in that epoch."""
        self._lives[peer] = self._network.life(peer, epoch)
        self._apply(self.membership.learn(peer, incarnation_of(epoch), self.local))

    def lost(self, peer: PeerId) -> None:
        """Take in that the connection to `peer` ended."""
        self._apply(self.membership.cut(peer, self.local))

    def probe(self, peer: PeerId) -> None:
        """Probe a peer that was met."""
        self._apply(self.membership.probe(peer, self.local))

    def leave(self) -> None:
        """Say goodbye; the process ends soon."""
        effects = self.membership.leave(self.local)
        self._apply(effects)
        for datagram in effects.datagrams[:1]:
            self.gossip.tell(Enclosed(datagram.message, datagram.updates))

    def _apply(self, effects: Effects, source: PeerId | None = None) -> None:
        """Do what membership decided."""
        for change in effects.changes:
            self._members = None
            self.table.count(change.peer, member=change.state in _THERE)
            self._network.changed(self, change)
            self.links.changed(change)
        for datagram in effects.datagrams:
            self._send(datagram)
        if effects.unknown and source is not None:
            self.gossip.ask(source, [peer for peer in effects.unknown if peer != source])
        self._arm()

    def _send(self, datagram: Datagram) -> None:
        """Send a datagram; a reliable one over a stream, or at least make a connection for it."""
        to, message, updates = datagram.to, datagram.message, datagram.updates
        if not datagram.reliable:
            self._network.lines.send(self, to, message, updates)
        elif not (self.links.post(to, Enclosed(message, updates)) or self.links.is_connected(to)):
            self.links.connect(to)

    # time

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        """Plan something, which is done if and when this process runs."""
        self._network.events.after(seconds, self.take, act, *args)

    def take(self, act: Callable[..., None], *args: Any) -> None:
        """Have something done by this process: now, or when it runs again."""
        if self.stopped:
            self._inbox.append((act, args))
        elif self.up:
            act(*args)

    def take_datagram(self, act: Callable[..., None], *args: Any) -> None:
        """Have a datagram heard, unless the process stands still and its socket is full."""
        if self.stopped:
            self._backlog += 1
        if self._backlog <= SOCKET_BACKLOG:
            self.take(act, *args)

    def stop(self) -> None:
        """Have the process stand still."""
        self.stopped = True

    def resume(self) -> None:
        """Have it run again, with whatever came in meanwhile, in no certain order."""
        if not self.up or not self.stopped:
            return
        self.stopped = False
        notices_first = self.rng.random() < 0.5
        if notices_first:
            self._notice_stall()
        waiting, self._inbox, self._backlog = self._inbox, [], 0
        for act, args in waiting:
            act(*args)
        if not notices_first:
            self._notice_stall()
        self._tick()

    def _notice_stall(self) -> None:
        late = self.local - self.clock.shows(min(self._wake_at, self._network.events.now))
        if late > STALL_S and self._network.notices_stalls:
            self.membership.stood_still(late)

    def _arm(self) -> None:
        """See that membership is woken when it has something to do, as the shell does."""
        now = self.local
        due = min(max(self.membership.next_wake(), now + TICK_MIN_S), now + TICK_MAX_S)
        true = self.clock.true(due)
        if true < self._wake_at:
            self._wake_at = true
            self._network.events.at(true, self._wake, true)

    def _wake(self, due: float) -> None:
        if self.up and not self.stopped and due == self._wake_at:
            self._tick()

    def _tick(self) -> None:
        self._wake_at = inf
        self._apply(self.membership.tick(self.local))
