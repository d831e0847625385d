"""The gossip streams: who is connected to whom, and how records get to everybody.

Each peer opens a stream to each of its neighbours (`neighbours.py` says who they are). What its
owner publishes goes to all neighbours at once; in a network in which everybody is everybody's
neighbour that is all, and bootstrap nodes pass it on once more for those who are not connected to
each other yet. In a larger one every peer passes on what is new to it. Whoever missed something
finds out by comparing digests, at the beginning of each stream and with one neighbour now and then.

    message   sent by                carries
    hello     the opener, and when   whether it chose the other as a neighbour; its digest
              its choice changes
    synced    who was greeted        nothing: what the digest lacked has been sent
    records   whoever has news       signed records, verbatim
    digest    each, now and then     the digest, for comparison
    items     who was asked          versions of the records in the buckets that differ
    want      who lacks some         keys of records
    forward   a member               a sealed datagram for a peer that has a stream to the receiver
    (binary)  a neighbour            a membership datagram, see `datagrams.py`

A peer that nobody can dial and that has no relay, a client for one, is a *guest*: it is told
everything and tells nothing about itself, so nobody has to find out that it is gone.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Protocol

import structlog
import trio

from overlay import datagrams, repair
from overlay.errors import MyxoError, PassphraseRefused, PeerUnreachable, RecordRefused
from overlay.framing import FramedStream
from overlay.gossip import (
    GOSSIP_PROTOCOL,
    ITEMS_PER_MESSAGE,
    Digest,
    Forward,
    Hello,
    Items,
    Message,
    Records,
    Synced,
    Want,
    frame,
    parse,
)
from overlay.host import ConnectionEvent
from overlay.membership import Change, Gossip, MemberState, incarnation_of
from overlay.names import PeerId
from overlay.neighbours import FULL_MESH, choose
from overlay.outbox import Outbox
from overlay.probing import Probing
from overlay.reach import DIAL_TIMEOUT_S, Reach
from overlay.records import Held, PeerRecord, Role
from overlay.signed import Signed
from overlay.view import View

REPAIR_S = 5.0
"""Between two comparisons of digests that a peer begins: 1.4 KB each. What flooding missed is found
in about this time; nothing waits for it in the ordinary case."""

LEAVE_TIMEOUT_S = 0.5
REDIAL_FIRST_S = 0.2
REDIAL_MOST_S = 10.0
REMEMBERED_AFTER_S = 2.0
"""How long the bootstrap nodes have to answer before peers of an earlier time are tried."""

REDIAL_WARN_S = 3.0
"""Daemons that are started together find each other within this time; nobody needs to know."""

COMPLAINTS_REMEMBERED = 1024
"""Pairs of a peer and what is wrong with records that it passed on; each is a warning once."""

COURTESY_S = 0.5
"""A newcomer dials everybody at once; those who are there wait so long for it before they dial it
themselves, so that two peers seldom end up with two connections."""

GREETING_S = 2.0
"""How long a newcomer waits for the RTT of each neighbour, before it counts as there. Until then
it would start services on machines that are far when others are near."""

FORGET_DEAD_S = 24 * 3600.0
"""How long the address of a dead peer is kept and tried: a machine that was cut off or switched
off for a day is found again by those who stayed."""

FORGET_LEFT_S = 3600.0
"""How long it is known that a peer left, so that an old record does not bring it back."""

HOUSEKEEPING_S = 60.0

log = structlog.get_logger()

class MeshHost(Protocol):
    """What the mesh needs of the libp2p host."""

    connections: "trio.MemoryReceiveChannel[ConnectionEvent]"

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

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to a peer."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection to."""
        ...


class Mesh:
    """Keeps the view true while `run` runs.

    Args:
        host: the libp2p host.
        view: what is fed; its own records must be in it before `run`.
        role: this peer's; bootstraps forward, clients are guests.
        bootstraps: multiaddrs with peer ids.
        probing: carries membership's datagrams.
        reach: connects to peers.
        rng: chooses neighbours, and whom to compare with.
        remembered: multiaddrs of peers that were there before, tried while no bootstrap answers.
        changed: called after every change of the view.
        disconnected: called when the last connection to a peer ended.
    """

    def __init__(
        self,
        host: MeshHost,
        view: View,
        role: Role,
        bootstraps: Iterable[str],
        probing: Probing,
        reach: Reach,
        rng: random.Random,
        *,
        remembered: Iterable[str] = (),
        changed: Callable[[], None],
        disconnected: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._view = view
        self._membership = view.membership
        self._role = role
        self._bootstraps = tuple(bootstraps)
        self._remembered = tuple(remembered)
        self._probing = probing
        self._reach = reach
        self._rng = rng
        self._changed = changed
        self._disconnected = disconnected
        self._outboxes: dict[PeerId, Outbox] = {}
        self._chosen: frozenset[PeerId] = frozenset()
        self._chosen_by: set[PeerId] = set()
        self._dialling: set[PeerId] = set()
        self._gone: dict[PeerId, float] = {}
        self._complaints: set[tuple[PeerId, str]] = set()
        self._joined = trio.Event()
        self._settled = False
        self._rechoose = trio.Event()
        self._met = trio.Event()
        self._speaking = 0
        self._spoken = trio.Event()
        self._nursery: trio.Nursery | None = None
        probing.streams = self
        probing.changed = self._take
        probing.unknown = self._ask_about
        probing.measured = self._note_measured

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` when this peer knows the network.

        That is when a member has told what it knows and the RTT of every neighbour has been
        measured, or there was `GREETING_S` to.

        A peer without bootstraps founds a network and is started at once.

        Raises:
            PassphraseRefused: a bootstrap answers but does not share the passphrase, before this
                peer has ever joined.
        """
        self._host.handle(GOSSIP_PROTOCOL, self._serve_gossip)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_connections)
            nursery.start_soon(self._probing.run)
            nursery.start_soon(self._keep_neighbours)
            nursery.start_soon(self._repair)
            nursery.start_soon(self._keep_house)
            for address in self._bootstraps:
                nursery.start_soon(self._keep_bootstrap, address)
            nursery.start_soon(self._try_remembered)
            if self._bootstraps:
                await self._joined.wait()
                self._rechoose.set()
                with trio.move_on_after(GREETING_S):
                    while self._unmeasured():
                        await self._met.wait()
            self._settled = True
            task_status.started()

    def push(self, records: Iterable[Signed]) -> None:
        """Send records to every neighbour."""
        self._tell(Records(records=tuple(records)))

    async def leave(self) -> None:
        """Tell everybody that this peer goes; what was posted before is sent first."""
        if self._role is not Role.CLIENT:
            effects = self._membership.leave(trio.current_time())
            self._probing.apply(effects)
            for datagram in effects.datagrams[:1]:
                goodbye = datagrams.encode(Gossip(), datagram.updates)
                for outbox in self._outboxes.values():
                    outbox.post(goodbye)
        for peer in list(self._outboxes):
            self._close_outbox(peer)
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            while self._speaking:
                await self._spoken.wait()

    def neighbours(self) -> frozenset[PeerId]:
        """Return the peers that there is a gossip stream to."""
        return frozenset(self._outboxes)

    def post_datagram(self, peer: PeerId, data: bytes) -> bool:
        """Queue a datagram on the stream to a neighbour; False if there is none."""
        if peer not in self._outboxes:
            return False
        self._post(peer, data)
        return True

    def post_forward(self, relay: PeerId, to: PeerId, sealed: bytes) -> bool:
        """Queue a sealed datagram for `to` on the stream to a relay; False if there is none."""
        if relay not in self._outboxes:
            return False
        self._post(relay, frame(Forward(to=to, sealed=sealed)))
        return True

    # connections

    async def _watch_connections(self) -> None:
        """Greet who is connected, and say of a neighbour that is no longer so that it was cut.

        The end of a connection may be known by the end of the gossip on it before it is known here;
        so who was connected is remembered apart from the outboxes.
        """
        before: frozenset[PeerId] = frozenset()
        async for _ in self._host.connections:
            connected = self._host.connected()
            for peer in connected - before:
                self._vouch(peer)
                if not self._settled or peer in self._chosen or not self._large():
                    self._open_outbox(peer)
            for peer in before - connected:
                self._membership.vouched.discard(peer)
                self._chosen_by.discard(peer)
                self._close_outbox(peer)
                self._probing.apply(self._membership.cut(peer, trio.current_time()))
                self._disconnected(peer)
                if not self._view.is_member(peer) and not self._dialable(peer):
                    self._forget(peer)
                self._rechoose.set()
            before = connected

    def _vouch(self, peer: PeerId) -> None:
        """Judge a peer on this machine by its connection alone.

        There is no cable to be cut between the two, and a process that waits for a busy core is
        not gone.
        """
        record = self._view.peer(peer)
        local = record is not None and record.machine == self._view.machine
        if local and peer in self._host.connected():
            self._membership.vouched.add(peer)

    async def _keep_bootstrap(self, address: str) -> None:
        """Stay connected to one bootstrap, or in a large network know that it is alive."""
        peer: PeerId | None = None
        delay = REDIAL_FIRST_S
        warned = False
        while True:
            if peer is not None and self._is_kept(peer):
                await trio.sleep(REDIAL_FIRST_S)
                continue
            try:
                peer = await self._host.connect(None, address, timeout_s=DIAL_TIMEOUT_S)
                if warned:
                    log.warning("bootstrap.back", address=address)
                delay, warned = REDIAL_FIRST_S, False
            except PassphraseRefused:
                if not self._joined.is_set():
                    raise
            except PeerUnreachable as exc:
                due = delay >= REDIAL_WARN_S and not warned
                warned = warned or due
                tell = log.warning if due else log.debug
                tell("bootstrap.unreachable", address=address, error=str(exc))
            await trio.sleep(delay)
            delay = min(delay * 2, REDIAL_MOST_S)

    async def _try_remembered(self) -> None:
        """Find the network by the peers that were there before, if no bootstrap answers."""
        if self._bootstraps:
            with trio.move_on_after(REMEMBERED_AFTER_S):
                await self._joined.wait()
        delay = REDIAL_FIRST_S
        while self._remembered and not self._joined.is_set():
            for address in self._remembered:
                try:
                    await self._host.connect(None, address, timeout_s=DIAL_TIMEOUT_S)
                    break
                except MyxoError as exc:
                    log.debug("peer.unreachable", address=address, error=str(exc))
            await trio.sleep(delay)
            delay = min(delay * 2, REDIAL_MOST_S)

    def _is_kept(self, peer: PeerId) -> bool:
        alive = self._membership.state(peer) is MemberState.ALIVE
        return peer in self._host.connected() or (alive and self._large())

    def _large(self) -> bool:
        return len(self._view.members()) > FULL_MESH + 1

    async def _keep_neighbours(self) -> None:
        """Choose neighbours anew whenever the members change, and see that they are connected."""
        while True:
            await self._rechoose.wait()
            self._rechoose = trio.Event()
            known = self._known_distances()
            self._chosen = choose(known, self._chosen, self._rng)
            for peer in self._chosen:
                if peer in self._host.connected():
                    self._open_outbox(peer)
                else:
                    self._seek(peer)
            if self._large():
                self._say_who_is_chosen()
            await trio.sleep(REDIAL_FIRST_S)

    def _known_distances(self) -> dict[PeerId, float]:
        distances = {}
        for peer in self._view.members():
            if peer != self._view.me and self._dialable(peer):
                distance = self._view.distance(peer)
                distances[peer] = inf if distance is None else distance.rtt_s
        return distances

    def _say_who_is_chosen(self) -> None:
        """Close the streams that neither end chose; those that only the other chose stay."""
        for peer in list(self._outboxes):
            if peer in self._chosen or not self._view.is_member(peer):
                continue
            if peer not in self._chosen_by:
                self._close_outbox(peer)
            else:
                self._post(peer, self._hello(peer))

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
            while peer in self._chosen and peer not in self._host.connected():
                try:
                    await self._reach.connect(peer)
                except MyxoError as exc:
                    log.debug("peer.unreachable", peer=peer, error=str(exc))
                    await trio.sleep(delay)
                    delay = min(delay * 2, REDIAL_MOST_S)
        finally:
            self._dialling.discard(peer)

    def _unmeasured(self) -> bool:
        chosen = choose(self._known_distances(), self._chosen, self._rng)
        return any(self._membership.rtt(peer) is None for peer in chosen | self._chosen)

    def _note_measured(self, peer: PeerId) -> None:
        del peer
        self._meet()

    def _meet(self) -> None:
        self._met.set()
        self._met = trio.Event()

    # what this peer says

    def _open_outbox(self, peer: PeerId) -> None:
        if self._nursery is not None and peer not in self._outboxes:
            outbox = self._outboxes[peer] = Outbox()
            outbox.post(self._hello(peer))
            self._post_each(peer, repair.record_frames(self._own_records()))
            self._nursery.start_soon(self._speak, peer, outbox)

    def _own_records(self) -> list[Signed]:
        return [] if self._role is Role.CLIENT else self._view.records_of(self._view.me)

    def _hello(self, peer: PeerId) -> bytes:
        chosen = peer in self._chosen or not self._settled
        return frame(Hello(chosen=chosen, digest=self._view.digest.summary()))

    def _close_outbox(self, peer: PeerId) -> None:
        outbox = self._outboxes.pop(peer, None)
        if outbox is not None:
            outbox.close()

    def _tell(self, message: Message, but: PeerId | None = None) -> None:
        data = frame(message)
        for peer in list(self._outboxes):
            if peer != but:
                self._post(peer, data)

    def _post(self, peer: PeerId, data: bytes) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is None or outbox.post(data):
            return
        log.warning("peer.too_slow", peer=peer)
        self._close_outbox(peer)
        if self._nursery is not None:
            self._nursery.start_soon(self._host.disconnect, peer)

    def _post_each(self, peer: PeerId, frames: Iterable[bytes]) -> None:
        for one in frames:
            self._post(peer, one)

    async def _speak(self, peer: PeerId, outbox: Outbox) -> None:
        """Own the gossip stream to one peer: send what is posted until it is closed."""
        self._speaking += 1
        orderly = False
        try:
            stream = await self._host.open_stream(peer, GOSSIP_PROTOCOL)
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
        if self._outboxes.get(peer) is outbox:
            self._close_outbox(peer)
        if not orderly:
            await self._host.disconnect(peer)

    async def _repair(self) -> None:
        """Compare digests with a random neighbour now and then."""
        while True:
            await trio.sleep(REPAIR_S * self._rng.uniform(0.5, 1.5))
            neighbours = sorted(peer for peer in self._outboxes if self._view.is_member(peer))
            if neighbours and self._role is not Role.CLIENT:
                peer = self._rng.choice(neighbours)
                self._post(peer, frame(Digest(digest=self._view.digest.summary())))

    # what others say

    async def _serve_gossip(self, peer: PeerId, stream: FramedStream) -> None:
        """Hear one peer out."""
        self._open_outbox(peer)
        while (data := await stream.receive()) is not None:
            if datagrams.is_datagram(data):
                self._probing.hear(peer, data)
            else:
                self._hear(peer, parse(data))
        self._chosen_by.discard(peer)
        if peer not in self._chosen:
            self._close_outbox(peer)

    def _hear(self, peer: PeerId, message: Message | None) -> None:
        match message:
            case Hello():
                (self._chosen_by.add if message.chosen else self._chosen_by.discard)(peer)
                self._post_each(peer, repair.answer_digest(self._view, message.digest))
                self._post(peer, frame(Synced()))
                self._probing.probe(peer)
            case Synced():
                self._joined.set()
                self._meet()
            case Records():
                self._take_records(peer, message.records)
            case Digest():
                self._post_each(peer, repair.answer_digest(self._view, message.digest, self._rng))
            case Items():
                self._post_each(peer, repair.answer_items(self._view, message))
            case Want():
                self._post_each(peer, repair.answer_want(self._view, message.keys))
            case Forward():
                self._forward(peer, message)
            case _:
                log.debug("peer.unexpected_message", peer=peer)

    def _ask_about(self, source: PeerId, unknown: Iterable[PeerId]) -> None:
        """Ask who spoke of peers that no record is held of for their records."""
        keys = tuple((peer, "peer", "") for peer in unknown if peer != source)
        if keys:
            self._post(source, frame(Want(keys=keys[:ITEMS_PER_MESSAGE])))

    def _forward(self, source: PeerId, message: Forward) -> None:
        """Pass a sealed datagram between a member and a peer that has its stream here."""
        if message.to == self._view.me:
            self._probing.hear_forwarded(message.sealed)
        elif message.to in self._outboxes and self._view.is_member(source):
            self._post(message.to, frame(message))

    def _take_records(self, source: PeerId, records: Iterable[Signed]) -> None:
        news: list[Signed] = []
        for signed in records:
            if signed.signer == self._view.me:
                continue
            try:
                held = self._view.apply(signed, time.time())
            except RecordRefused as exc:
                self._complain(source, exc)
                continue
            if held is not None and self._welcome(held):
                news.append(signed)
        if news:
            self._changed()
            self._pass_on(source, news)

    def _pass_on(self, source: PeerId, news: list[Signed]) -> None:
        if self._role is not Role.CLIENT and (self._large() or self._role is Role.BOOTSTRAP):
            self._tell(Records(records=tuple(news)), but=source)
            return
        for peer in self._outboxes:  # guests are connected to few
            if not self._view.is_member(peer) and peer != source and self._settled:
                self._post(peer, frame(Records(records=tuple(news))))

    def _welcome(self, held: Held) -> bool:
        """Take a record's owner in as a member; False for one that nobody could dial."""
        if isinstance(held.record, PeerRecord):
            if not held.record.addresses and not self._view.is_member(held.owner):
                self._forget(held.owner)
                return False
            self._vouch(held.owner)
            self._probing.know(held.owner, held.record)
            incarnation = incarnation_of(held.record.version.epoch)
            effects = self._membership.learn(held.owner, incarnation, trio.current_time())
            self._probing.apply(effects)
            self._view.settle(held.owner)
            if held.owner in self._outboxes and self._membership.rtt(held.owner) is None:
                self._probing.probe(held.owner)
        return True

    def _complain(self, source: PeerId, refused: RecordRefused) -> None:
        complaint = source, refused.reason
        seen = complaint in self._complaints or len(self._complaints) >= COMPLAINTS_REMEMBERED
        say = log.debug if seen else log.warning
        self._complaints.add(complaint)
        say("record.refused", source=source, reason=refused.reason, error=str(refused))

    def _dialable(self, peer: PeerId) -> bool:
        record = self._view.peer(peer)
        return record is not None and bool(record.addresses)

    # who is there

    def _take(self, changes: Iterable[Change]) -> None:
        changed = list(changes)
        for change in changed:
            log.info("peer.state_changed", peer=change.peer, state=change.state.value)
            self._view.settle(change.peer)
            if change.state in {MemberState.DEAD, MemberState.LEFT}:
                self._gone[change.peer] = trio.current_time()
                if self._nursery is not None:
                    self._nursery.start_soon(self._host.disconnect, change.peer)
                if not self._dialable(change.peer):
                    self._forget(change.peer)
            else:
                self._gone.pop(change.peer, None)
        self._rechoose.set()
        self._meet()
        self._changed()
        self._tell_guests(changed)

    def _tell_guests(self, changes: Iterable[Change]) -> None:
        guests = [peer for peer in self._outboxes if not self._view.is_member(peer)]
        if guests and self._settled:
            frames = list(repair.state_frames(self._view, [change.peer for change in changes]))
            for peer in guests:
                self._post_each(peer, frames)

    async def _keep_house(self) -> None:
        """Forget peers that have long been gone, and look for better neighbours."""
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            now = trio.current_time()
            for peer, since in list(self._gone.items()):
                left = self._membership.state(peer) is MemberState.LEFT
                if now - since > (FORGET_LEFT_S if left else FORGET_DEAD_S):
                    self._forget(peer)
            self._rechoose.set()

    def _forget(self, peer: PeerId) -> None:
        self._gone.pop(peer, None)
        self._probing.forget(peer)
        self._view.forget(peer)
