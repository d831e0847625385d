"""Carries membership's datagrams: over UDP, or inside the gossip streams where UDP does not pass.

`membership.py` decides what is said to whom; this shell knows the ways. For each datagram the first
that is there is taken:

1. UDP, sealed for the one peer, once an authentic datagram has come from it that way;
2. the gossip stream to the peer, if it is a neighbour;
3. the gossip stream to a relay that the peer's record names, which passes the sealed bytes on;
4. UDP to the addresses in the peer's record, on the chance.

A probe also goes the fourth way while UDP is not proven, which is how it gets to be. What is marked
reliable goes over a stream, for which a connection is made if there is none.
"""

import random
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog
import trio

from overlay import datagrams
from overlay.addresses import InvalidAddress, parse_address
from overlay.announcing import Announcer
from overlay.coordinates import Coordinates
from overlay.endpoints import candidates
from overlay.errors import MalformedMessage, MyxoError, SignatureInvalid
from overlay.identity import Identity
from overlay.membership import (
    Ack,
    Alive,
    Change,
    Datagram,
    Effects,
    Knobs,
    Left,
    Membership,
    Message,
    Ping,
    Update,
    incarnation_of,
)
from overlay.names import InstanceId, PeerId
from overlay.reach import Reach
from overlay.records import PeerRecord
from overlay.sealing import Sealer
from overlay.signed import sign_incarnation, verify_incarnation
from overlay.udp import SealedUdp
from overlay.view import View

STALL_S = 0.15
"""A tick that comes later than this says that this process was starved or asleep: others cannot be
blamed for what it did not hear meanwhile."""

TICK_MIN_S = 0.01
"""Timers are not finer than this: a tenth of the shortest timeout."""

TICK_MAX_S = 1.0
"""How long a wait may be, so that a process that was asleep notices it."""

log = structlog.get_logger()


class Streams(Protocol):
    """What probing needs of the gossip streams."""

    def post_datagram(self, peer: PeerId, data: bytes) -> bool:
        """Queue a datagram on the stream to a neighbour; False if there is none."""
        ...

    def post_forward(self, relay: PeerId, to: PeerId, sealed: bytes) -> bool:
        """Queue a sealed datagram for `to` on the stream to a relay; False if there is none."""
        ...


class Probing:
    """Runs the membership protocol while `run` runs.

    Args:
        view: has the membership that decides, and the records that say where peers are.
        sealer: seals datagrams between pairs of peers.
        sockets: bound UDP sockets, one for each address family; none where there is no UDP.
        reach: makes connections for what is reliable.
        announcer: makes this peer known to who may not know it yet.
        load: returns what is in flight on this peer's instances.

    Attributes:
        udp: the sockets' datagrams, and their counts.
        announcer: as given.
    """

    def __init__(
        self,
        view: View,
        sealer: Sealer,
        sockets: Sequence[socket.socket],
        reach: Reach,
        announcer: Announcer,
        *,
        load: Callable[[], dict[InstanceId, int]],
    ) -> None:
        self.udp = SealedUdp(
            sockets,
            sealer,
            received=self._hear_udp,
            announced=announcer.hear,
            announcement=announcer.announcement,
        )
        self.announcer = announcer
        announcer.transmit = self.udp.transmit
        self._view = view
        self._membership = view.membership
        self._sealer = sealer
        self._reach = reach
        self._load = load
        self._wake = trio.Event()
        self._load_said = 0
        self._connecting: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        self.streams: Streams
        self.changed: Callable[[Iterable[Change]], None]
        self.unknown: Callable[[PeerId, Iterable[PeerId]], None]
        self.first_measured: Callable[[], None]

    async def run(self) -> None:
        """Send probes, hear datagrams and let timers expire until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.udp.run)
            nursery.start_soon(self.announcer.run)
            nursery.start_soon(self._tick)

    def know(self, peer: PeerId, record: PeerRecord) -> None:
        """Take in where a peer says that its datagrams are to go."""
        self.udp.know(peer, record.datagram_key, candidates(record))

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of the ways to a peer."""
        self.udp.forget(peer)

    def probe(self, peer: PeerId) -> None:
        """Probe a peer now: it was met, and how far it is would be good to know."""
        self.apply(self._membership.probe(peer, trio.current_time()))

    def apply(self, effects: Effects, source: PeerId | None = None) -> None:
        """Do what membership decided; `source` is who said what led to it."""
        if effects.changes:
            self.changed(effects.changes)
        for datagram in effects.datagrams:
            self._send(datagram)
        if effects.unknown and source is not None:
            self.unknown(source, effects.unknown)
        self._wake.set()

    def hear(self, source: PeerId, data: bytes) -> None:
        """Take in a datagram that an authenticated peer sent over its stream."""
        self._hear(source, data, reliable=True)

    def hear_forwarded(self, sealed: bytes) -> None:
        """Take in a sealed datagram that came through a relay."""
        opened = self._sealer.open(sealed)
        if opened is not None:
            self._hear(*opened, reliable=False)

    def _hear_udp(self, source: PeerId, data: bytes) -> bool:
        """Take in a datagram; return whether it answers one that was sent over UDP."""
        acks = self._membership.counters.acks
        self._hear(source, data, reliable=False)
        return self._membership.counters.acks != acks

    def _hear(self, source: PeerId, data: bytes, *, reliable: bool) -> None:
        try:
            message, updates = datagrams.decode(data)
        except MalformedMessage as exc:
            log.debug("datagram.malformed", peer=source, error=str(exc))
            return
        if not self._view.is_member(source):
            updates = self._what_counts_from_outside(source, updates)
        self._take(source, message, updates, reliable=reliable)

    def _what_counts_from_outside(
        self, source: PeerId, updates: Iterable[Update]
    ) -> tuple[Update, ...]:
        """Return what is taken in of the updates from a peer that is not there, as believed here.

        A guest asks, it does not tell. One that is dead here is listened to for what brings the
        two together again: what it signed, and that this peer is dead there. Were both deaf to each
        other, two halves of a network would stay apart after the line between them is mended.
        """
        if self._view.peer(source) is None:
            return ()
        me = self._view.me
        return tuple(u for u in updates if isinstance(u, Alive | Left) or u.peer == me)

    def _take(
        self, source: PeerId, message: Message, updates: Sequence[Update], *, reliable: bool
    ) -> None:
        samples, guess = self._membership.samples, None
        unknown = self._membership.rtt(source) is None
        if isinstance(message, Ack):
            self._view.set_load(source, dict(message.load))
            guess = self._membership.coordinates.estimate(source)  # before it learns the answer
        now = trio.current_time()
        effects = self._membership.receive(source, message, updates, now, reliable=reliable)
        self.apply(effects, source)
        if self._membership.samples != samples:
            self._view.measured(source, guess)
            if unknown:
                self.first_measured()

    async def _tick(self) -> None:
        while True:
            now = trio.current_time()
            self.apply(self._membership.tick(now))
            self._wake = trio.Event()
            due = min(max(self._membership.next_wake() - now, TICK_MIN_S), TICK_MAX_S)
            with trio.move_on_after(due) as waiting:
                await self._wake.wait()
                await trio.sleep(TICK_MIN_S)
            late = trio.current_time() - waiting.deadline
            if late > STALL_S:
                self._membership.stood_still(late)

    def _send(self, datagram: Datagram) -> None:
        peer, message = datagram.to, datagram.message
        if isinstance(message, Ack):
            message = replace(message, load=self._load_beside(datagram))
        data = datagrams.encode(message, datagram.updates)
        if datagram.reliable:
            self._send_reliably(peer, data)
            return
        sure = self.udp.send(peer, data, wants_answer=isinstance(message, Ping))
        if not (sure or self.streams.post_datagram(peer, data)):
            self._forward(peer, data)

    def _load_beside(self, ack: Datagram) -> tuple[tuple[InstanceId, int], ...]:
        """Return what fits of the load; what does not has its turn in the next answers."""
        load = list(self._load().items())
        room = datagrams.updates_room(ack.message) - sum(u.SIZE for u in ack.updates)
        found = datagrams.load_that_fits(load, room, self._load_said)
        self._load_said = (self._load_said + len(found)) % max(len(load), 1)
        return found

    def _forward(self, peer: PeerId, data: bytes) -> None:
        record = self._view.peer(peer)
        for relay in () if record is None else filter(None, map(_relay, record.addresses)):
            sealed = self._sealer.seal(peer, data)
            if sealed is None or self.streams.post_forward(relay, peer, sealed):
                return

    def _send_reliably(self, peer: PeerId, data: bytes) -> None:
        if self.streams.post_datagram(peer, data) or self._nursery is None:
            return
        if peer not in self._connecting and self._view.peer(peer) is not None:
            self._connecting.add(peer)
            self._nursery.start_soon(self._connect, peer)

    async def _connect(self, peer: PeerId) -> None:
        """Connect to a peer that does not answer otherwise; meeting it probes it."""
        try:
            await self._reach.connect(peer)
        except MyxoError as exc:
            log.debug("peer.unreachable", peer=peer, error=str(exc))
        finally:
            self._connecting.discard(peer)


def open_membership(
    identity: Identity, epoch: float, profile: str, rng: random.Random
) -> Membership:
    """Return the membership of the peer that `identity` is, in the epoch that it has begun."""
    knobs = {"local": Knobs.local, "lan": Knobs.lan, "wan": Knobs.wan}[profile]()

    def sign(kind: type[Alive] | type[Left], incarnation: int) -> bytes:
        return sign_incarnation(identity, kind.PURPOSE, incarnation)

    def verify(said: Alive | Left) -> bool:
        try:
            verify_incarnation(said.peer, said.PURPOSE, said.incarnation, said.signature)
        except SignatureInvalid:
            return False
        return True

    return Membership(
        identity.peer_id,
        incarnation_of(epoch),
        knobs,
        rng=rng,
        coordinates=Coordinates(rng),
        sign=sign,
        verify=verify,
    )


def _relay(address: str) -> PeerId | None:
    try:
        return parse_address(address).relay
    except InvalidAddress:
        return None
