"""What goes over the gossip streams, and how records get to everybody.

What its owner publishes goes to all neighbours at once; in a network in which everybody is
everybody's neighbour that is all, and bootstrap nodes pass it on once more for those who are not
connected to each other yet. In a larger one every peer passes on what is new to it. Whoever missed
something finds out by comparing digests (`repair.py`), at the beginning of each stream and with one
neighbour now and then.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog
import trio

from overlay import datagrams, repair
from overlay.errors import RecordRefused
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
    is_datagram,
    parse,
)
from overlay.links import LinkHost, Links
from overlay.membership import Change, Gossip, MemberState, incarnation_of
from overlay.names import PeerId
from overlay.probing import Probing
from overlay.reach import Reach
from overlay.records import Held, PeerRecord, Role
from overlay.signed import Signed
from overlay.view import View

REPAIR_S = 5.0
"""Between two comparisons of digests that a peer begins: 1.4 KB each. What flooding missed is found
in about this time; nothing waits for it in the ordinary case."""

LEAVE_TIMEOUT_S = 0.5

COMPLAINTS_REMEMBERED = 1024
"""Pairs of a peer and what is wrong with records that it passed on; each is a warning once."""

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
        remembered: returns multiaddrs of peers that were there before, tried while no bootstrap
            answers.
        changed: called after every change of the view.
        disconnected: called when the last connection to a peer ended.
    """

    def __init__(
        self,
        host: LinkHost,
        view: View,
        role: Role,
        bootstraps: Iterable[str],
        probing: Probing,
        reach: Reach,
        rng: random.Random,
        *,
        remembered: Callable[[], Sequence[str]] = tuple,
        changed: Callable[[], None],
        disconnected: Callable[[PeerId], None],
    ) -> None:
        self._view = view
        self._membership = view.membership
        self._role = role
        self._probing = probing
        self._rng = rng
        self._changed = changed
        self._disconnected = disconnected
        self._links = Links(
            host,
            view,
            reach,
            rng,
            bootstraps=bootstraps,
            remembered=remembered,
            greet=self._greeting,
            met=self._vouch,
            lost=self._lost,
        )
        self._hearing: Counter[PeerId] = Counter()
        self._gone: dict[PeerId, float] = {}
        self._complaints: set[tuple[PeerId, str]] = set()
        self._settled = False
        self._news = trio.Event()
        host.handle(GOSSIP_PROTOCOL, self._serve_gossip)
        probing.streams = self
        probing.changed = self._take_changes
        probing.unknown = self._ask_about
        probing.first_measured = self._tell_readers
        probing.announcer.taken = self._take_announced

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` when this peer knows the network.

        That is when a member has told what it knows and the RTT of every neighbour has been
        measured, or there was `GREETING_S` to.

        A peer without bootstraps founds a network and is started at once.

        Raises:
            PassphraseRefused: a bootstrap answers but does not share the passphrase, before this
                peer has ever joined.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._links.run)
            nursery.start_soon(self._probing.run)
            nursery.start_soon(self._repair)
            nursery.start_soon(self._keep_house)
            if not self._links.entrances.bootstraps:
                self._links.entrances.joined.set()
            else:
                await self._links.entrances.joined.wait()
                self._links.reconsider()
                with trio.move_on_after(GREETING_S):
                    while self._links.unmeasured():
                        await self._news.wait()
            self._settled = True
            self._links.settle()
            task_status.started()

    def push(self, records: Iterable[Signed]) -> None:
        """Send records to every neighbour."""
        if self._role is not Role.CLIENT:
            self._links.tell(repair.record_frames(records))

    async def leave(self) -> None:
        """Tell everybody that this peer goes; what was posted before is sent first."""
        if self._role is not Role.CLIENT:
            effects = self._membership.leave(trio.current_time())
            self._probing.apply(effects)
            self._links.tell(datagrams.encode(Gossip(), d.updates) for d in effects.datagrams[:1])
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            await self._links.finish()

    def neighbours(self) -> frozenset[PeerId]:
        """Return the peers that there is a gossip stream to."""
        return self._links.neighbours()

    def drop(self, peer: PeerId) -> None:
        """Forget a peer and close every connection to it."""
        self._links.drop(peer)
        self._forget(peer)
        self._changed()

    def post_datagram(self, peer: PeerId, data: bytes) -> bool:
        """Queue a datagram on the stream to a neighbour; False if there is none."""
        return self._links.post(peer, data)

    def post_forward(self, relay: PeerId, to: PeerId, sealed: bytes) -> bool:
        """Queue a sealed datagram for `to` on the stream to a relay; False if there is none."""
        return self._links.post(relay, frame(Forward(to=to, sealed=sealed)))

    # what others say

    async def _serve_gossip(self, peer: PeerId, stream: FramedStream) -> None:
        """Hear one peer out."""
        self._links.open(peer)
        self._hearing[peer] += 1
        try:
            while (data := await stream.receive()) is not None:
                if is_datagram(data):
                    self._probing.hear(peer, data)
                else:
                    self._hear(peer, parse(data))
        finally:
            self._hearing[peer] -= 1
            self._hearing = +self._hearing
        if peer not in self._hearing:  # else it has moved to another stream
            self._links.fell_silent(peer)

    def _hear(self, peer: PeerId, message: Message | None) -> None:
        match message:
            case Hello():
                self._links.told_choice(peer, chosen=message.chosen)
                self._answer(peer, repair.answer_digest(self._view, message.digest))
                self._links.post(peer, frame(Synced()))
                if not self._links.entrances.joined.is_set():
                    # what answered the first greeting may have been lost
                    self._answer(peer, self._greeting(peer))
                self._probing.probe(peer)
            case Synced():
                self._links.entrances.joined.set()
                self._wake()
            case Records():
                self._take_records(peer, message.records)
            case Digest():
                self._answer(peer, repair.answer_digest(self._view, message.digest, self._rng))
            case Items():
                self._answer(peer, repair.answer_items(self._view, message))
            case Want():
                self._answer(peer, repair.answer_want(self._view, message.keys))
            case Forward():
                self._forward(peer, message)
            case None:
                log.debug("peer.unexpected_message", peer=peer)

    def _answer(self, peer: PeerId, frames: Iterable[bytes]) -> None:
        for data in frames:
            self._links.post(peer, data)

    def _forward(self, source: PeerId, message: Forward) -> None:
        """Pass a sealed datagram between a member and a peer that has its stream here."""
        if message.to == self._view.me:
            self._probing.hear_forwarded(message.sealed)
        elif self._view.is_member(source):
            self._links.post(message.to, frame(message))

    def _take_announced(self, signed: Signed) -> None:
        """Take in a record that came ahead of the first stream, as if its owner had one."""
        self._take_records(signed.signer, [signed])

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
            self._pass_on(source, news)
            self._changed()

    def _welcome(self, held: Held) -> bool:
        """Take a record's owner in as a member; False for one that nobody could dial.

        An instance of an owner that is not known comes again when its owner is.
        """
        record = self._view.peer(held.owner)
        if record is None or (not record.addresses and not self._view.is_member(held.owner)):
            self._forget(held.owner)
            return False
        if not isinstance(held.record, PeerRecord):
            return True
        self._probing.know(held.owner, held.record)
        incarnation = incarnation_of(held.record.version.epoch)
        effects = self._membership.learn(held.owner, incarnation, trio.current_time())
        self._probing.apply(effects)
        self._view.settle(held.owner)
        self._vouch(held.owner)
        if held.owner in self._links.neighbours():
            if self._membership.rtt(held.owner) is None:
                self._probing.probe(held.owner)
        else:
            self._links.reconsider()
        return True

    def _pass_on(self, source: PeerId, news: list[Signed]) -> None:
        frames = list(repair.record_frames(news))
        if self._role is Role.BOOTSTRAP or (self._role is not Role.CLIENT and self._is_large()):
            self._links.tell(frames, but=source)
        else:
            for guest in self._links.guests():  # they are connected to few
                if guest != source:
                    self._answer(guest, frames)

    def _is_large(self) -> bool:
        return self._links.is_large()

    def _complain(self, source: PeerId, refused: RecordRefused) -> None:
        complaint = source, refused.reason
        seen = complaint in self._complaints or len(self._complaints) >= COMPLAINTS_REMEMBERED
        say = log.debug if seen else log.warning
        self._complaints.add(complaint)
        say("record.refused", source=source, reason=refused.reason, error=str(refused))

    # what this peer says

    def _greeting(self, peer: PeerId) -> Iterator[bytes]:
        chosen = self._links.chooses(peer)
        yield frame(Hello(chosen=chosen, digest=self._view.digest.summary()))
        if self._role is not Role.CLIENT:
            yield from repair.record_frames(self._view.records_of(self._view.me))

    async def _repair(self) -> None:
        """Compare digests with a random neighbour now and then."""
        while True:
            await trio.sleep(REPAIR_S * self._rng.uniform(0.5, 1.5))
            neighbours = sorted(p for p in self._links.neighbours() if self._view.is_member(p))
            if neighbours and self._role is not Role.CLIENT:
                digest = Digest(digest=self._view.digest.summary())
                self._links.post(self._rng.choice(neighbours), frame(digest))

    def _ask_about(self, source: PeerId, unknown: Iterable[PeerId]) -> None:
        """Ask who spoke of peers that no record is held of for their records."""
        keys = tuple((peer, "peer", "") for peer in unknown if peer != source)
        if keys:
            self._links.post(source, frame(Want(keys=keys[:ITEMS_PER_MESSAGE])))

    # who is there

    def _vouch(self, peer: PeerId) -> None:
        """Judge a peer on this machine by its connection alone.

        There is no cable to be cut between the two, and a process that waits for a busy core is
        not gone.
        """
        record = self._view.peer(peer)
        local = record is not None and record.machine == self._view.machine
        if local and self._links.is_connected(peer):
            self._membership.vouched.add(peer)

    def _lost(self, peer: PeerId) -> None:
        self._membership.vouched.discard(peer)
        self._probing.apply(self._membership.cut(peer, trio.current_time()))
        self._disconnected(peer)
        record = self._view.peer(peer)
        if not self._view.is_member(peer) and (record is None or not record.addresses):
            self._forget(peer)

    def _take_changes(self, changes: Iterable[Change]) -> None:
        changed = list(changes)
        for change in changed:
            log.info("peer.state_changed", peer=change.peer, state=change.state.value)
            self._view.settle(change.peer)
            if change.state in {MemberState.ALIVE, MemberState.SUSPECT}:
                self._gone.pop(change.peer, None)
                continue
            self._gone[change.peer] = trio.current_time()
            self._links.drop(change.peer)
            record = self._view.peer(change.peer)
            if record is None or not record.addresses:
                self._forget(change.peer)
        self._links.reconsider()
        self._wake()
        self._changed()
        self._tell_guests(changed)

    def _tell_guests(self, changes: Iterable[Change]) -> None:
        if guests := self._links.guests():
            frames = list(repair.state_frames(self._view, [change.peer for change in changes]))
            for peer in guests:
                self._answer(peer, frames)

    def _tell_readers(self) -> None:
        """A distance became known; later measurements are seen in the view when it is read."""
        self._view.touch()
        self._wake()
        self._changed()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _keep_house(self) -> None:
        """Forget peers that have long been gone, and look for better neighbours."""
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            now = trio.current_time()
            for peer, since in list(self._gone.items()):
                left = self._membership.state(peer) is MemberState.LEFT
                if now - since > (FORGET_LEFT_S if left else FORGET_DEAD_S):
                    self._forget(peer)
            self._links.reconsider()

    def _forget(self, peer: PeerId) -> None:
        self._gone.pop(peer, None)
        self._probing.forget(peer)
        self._view.forget(peer)
