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

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import structlog
import trio

from overlay import datagrams
from overlay.addresses import InvalidAddress, parse_address
from overlay.errors import MalformedMessage, MyxoError
from overlay.membership import Ack, Change, Datagram, Effects, MemberState, Message, Ping, Update
from overlay.names import InstanceId, PeerId
from overlay.reach import Reach
from overlay.records import PeerRecord
from overlay.sealing import Sealer
from overlay.udp import UdpRoad
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
        udp: the socket; None where there is none.
        reach: makes connections for what is reliable.
        load: returns what is in flight on this peer's instances.
    """

    def __init__(
        self,
        view: View,
        sealer: Sealer,
        udp: UdpRoad | None,
        reach: Reach,
        *,
        load: Callable[[], dict[InstanceId, int]],
    ) -> None:
        self._view = view
        self._membership = view.membership
        self._sealer = sealer
        self._udp = udp
        self._reach = reach
        self._load = load
        self._wake = trio.Event()
        self._connecting: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        self.streams: Streams
        self.changed: Callable[[Iterable[Change]], None]
        self.unknown: Callable[[PeerId, Iterable[PeerId]], None]
        self.measured: Callable[[PeerId], None]

    async def run(self) -> None:
        """Send probes, hear datagrams and let timers expire until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._udp is not None:
                nursery.start_soon(self._udp.run, self._hear_udp)
            nursery.start_soon(self._tick)

    def know(self, peer: PeerId, record: PeerRecord) -> None:
        """Take in where a peer says that its datagrams are to go."""
        if not record.datagram_key:
            return
        self._sealer.know(peer, record.datagram_key)
        if self._udp is not None and record.datagram_port:
            hosts = [h for h in map(_direct_host, record.addresses) if h is not None]
            self._udp.know(peer, hosts, record.datagram_port)

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of the ways to a peer."""
        self._sealer.forget(peer)
        if self._udp is not None:
            self._udp.forget(peer)

    def probe(self, peer: PeerId) -> None:
        """Probe a peer now: it was met, and how far it is would be good to know."""
        self.apply(self._membership.probe(peer, trio.current_time()), peer)

    def apply(self, effects: Effects, source: PeerId | None = None) -> None:
        """Do what membership decided."""
        if effects.changes:
            self.changed(effects.changes)
        for datagram in effects.datagrams:
            self._send(datagram)
        if effects.unknown and source is not None:
            self.unknown(source, effects.unknown)
        self._wake.set()

    def hear(self, source: PeerId, data: bytes) -> None:
        """Take in a datagram from an authenticated peer; one that is none is dropped."""
        try:
            message, updates = datagrams.decode(data)
        except MalformedMessage as exc:
            log.debug("datagram.malformed", peer=source, error=str(exc))
            return
        if not self._view.is_member(source):
            updates = ()  # a guest asks, it does not tell
        self._take(source, message, updates)

    def hear_forwarded(self, sealed: bytes) -> None:
        """Take in a sealed datagram that came through a relay."""
        opened = self._sealer.open(sealed)
        if opened is not None:
            self.hear(*opened)

    def _hear_udp(self, source: PeerId, data: bytes) -> None:
        self.hear(source, data)

    def _take(self, source: PeerId, message: Message, updates: tuple[Update, ...]) -> None:
        samples = self._membership.samples
        if isinstance(message, Ack) and message.load:
            self._view.set_load(source, dict(message.load))
        now = trio.current_time()
        self.apply(self._membership.receive(source, message, updates, now), source)
        if self._membership.samples != samples:
            self._view.measured(source)
            self.measured(source)

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
        message = datagram.message
        if isinstance(message, Ack):
            message = replace(message, load=datagrams.load_that_fits(self._load()))
        data = datagrams.encode(message, datagram.updates)
        peer = datagram.to
        if datagram.reliable:
            self._send_reliably(peer, data)
            return
        proven = self._udp is not None and self._udp.is_proven(peer)
        if proven and self._send_udp(peer, data):
            return
        sent = self.streams.post_datagram(peer, data) or self._forward(peer, data)
        if not sent or isinstance(message, Ping):
            self._send_udp(peer, data)

    def _send_udp(self, peer: PeerId, data: bytes) -> bool:
        if self._udp is None:
            return False
        return self._udp.send(peer, data)

    def _forward(self, peer: PeerId, data: bytes) -> bool:
        record = self._view.peer(peer)
        relays = [] if record is None else [r for r in map(_relay, record.addresses) if r]
        for relay in relays:
            sealed = self._sealer.seal(peer, data)
            if sealed is not None and self.streams.post_forward(relay, peer, sealed):
                return True
        return False

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


def _direct_host(address: str) -> str | None:
    try:
        parsed = parse_address(address)
    except InvalidAddress:
        return None
    return None if parsed.relay else parsed.host


def _relay(address: str) -> PeerId | None:
    try:
        return parse_address(address).relay
    except InvalidAddress:
        return None
