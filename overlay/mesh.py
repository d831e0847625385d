"""The full mesh: connects to every peer, passes records on, probes, and feeds the view.

Each peer opens one gossip stream to every peer it is connected to. On it go its probes and its
news; the answers to its probes come back on it. A new stream begins with everything the sender
knows (`synced` marks its end), so that whoever joins has the whole view after one exchange with
any peer. From then on an owner pushes its own records to everybody; bootstrap nodes also forward
other owners' news, which covers peers that are not connected to each other yet.

    message   sent by            carries
    records   whoever has news   signed records, verbatim
    synced    the opener, once   end of what it knew when the stream was opened
    probe     the opener         a sequence number
    ack       the accepter       the same number, and its instances' load
    leave     a stopping peer    nothing: its records are void from now on
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Literal, Protocol

import structlog
import trio
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from overlay.errors import MyxoError, PassphraseRefused, PeerUnreachable, RecordRefused
from overlay.framing import FramedStream
from overlay.host import ConnectionEvent
from overlay.membership import Change, MemberState, Probe
from overlay.names import InstanceId, PeerId
from overlay.records import Held, PeerRecord, Role
from overlay.signed import Signed
from overlay.spec import MOST
from overlay.view import View

GOSSIP_PROTOCOL = "/myxo/gossip/1.0.0"

TICK_S = 0.05
"""How often due probes and expired timers are looked for: a tenth of the shortest timeout."""

STALL_S = 0.15
"""A tick that comes later than this says that this process was starved or asleep: others cannot be
blamed for what it did not hear meanwhile."""

OUTBOX = 1024
"""Messages that may wait for one peer; a peer that is slower than this is cut and syncs anew."""

RECORDS_PER_MESSAGE = 64
"""64 records of 16 KiB are 1.4 MB as base64, under the frame limit of 4 MiB."""

DIAL_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 0.5
REDIAL_FIRST_S = 0.2
REDIAL_MOST_S = 10.0
REDIAL_WARN_S = 3.0
"""Daemons that are started together find each other within this time; nobody needs to know."""

COMPLAINTS_REMEMBERED = 1024
"""Pairs of a peer and what is wrong with records that it passed on; each is a warning once."""

DIALS_AT_ONCE = 16
"""A network that comes back all at once must not exhaust sockets or cores."""

FORGET_AFTER_DIALS = 40
"""Redials of a peer that is gone, some six minutes, before it is forgotten."""

COURTESY_S = 0.5
"""A newcomer dials everybody at once; those who are there wait so long for it before they dial it
themselves, so that two peers seldom end up with two connections."""

GREETING_S = 2.0
"""How long a newcomer waits for a word from everybody it has heard of, before it counts as there.
Until then it would start services that run on machines it is about to meet."""

log = structlog.get_logger()


class _Records(BaseModel):
    kind: Literal["records"] = "records"
    records: tuple[Signed, ...] = Field(max_length=RECORDS_PER_MESSAGE)


class _Synced(BaseModel):
    kind: Literal["synced"] = "synced"


class _Probe(BaseModel):
    kind: Literal["probe"] = "probe"
    sequence: int


class _Ack(BaseModel):
    kind: Literal["ack"] = "ack"
    sequence: int
    load: dict[InstanceId, Annotated[int, Field(ge=0, le=MOST)]] = Field(
        default_factory=dict, max_length=1024
    )


class _Leave(BaseModel):
    kind: Literal["leave"] = "leave"


_Message = _Records | _Synced | _Probe | _Ack | _Leave
_MESSAGE: TypeAdapter[_Message] = TypeAdapter(Annotated[_Message, Field(discriminator="kind")])


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
        role: this peer's; bootstraps forward, clients keep to bootstraps and registries.
        bootstraps: multiaddrs with peer ids.
        load: returns what is in flight on this peer's instances.
        changed: called after every change of the view.
        disconnected: called when the last connection to a peer ended.
    """

    def __init__(
        self,
        host: MeshHost,
        view: View,
        role: Role,
        bootstraps: Iterable[str],
        *,
        load: Callable[[], dict[InstanceId, int]],
        changed: Callable[[], None],
        disconnected: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._view = view
        self._role = role
        self._bootstraps = tuple(bootstraps)
        self._load = load
        self._changed = changed
        self._disconnected = disconnected
        self._outboxes: dict[PeerId, trio.MemorySendChannel[_Message]] = {}
        self._dialling: set[PeerId] = set()
        self._complaints: set[tuple[PeerId, str]] = set()
        self._dial_limit = trio.CapacityLimiter(DIALS_AT_ONCE)
        self._joined = trio.Event()
        self._settled = False
        self._heard = trio.Event()
        self._speaking = 0
        self._spoken = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `started` when this peer knows the network.

        That is when a bootstrap has told what it knows and everybody it knows of has said
        something, or was given `GREETING_S` to.

        A peer without bootstraps founds a network and is started at once.

        Raises:
            PassphraseRefused: a bootstrap answers but does not share the passphrase, before this
                peer has ever joined.
        """
        self._host.handle(GOSSIP_PROTOCOL, self._serve_gossip)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_connections)
            nursery.start_soon(self._tick)
            for address in self._bootstraps:
                nursery.start_soon(self._keep_bootstrap, address)
            if self._bootstraps:
                await self._joined.wait()
                with trio.move_on_after(GREETING_S):
                    while any(self._awaited(peer) for peer in self._view.known()):
                        await self._heard.wait()
            self._settled = True
            task_status.started()

    def push(self, records: Iterable[Signed]) -> None:
        """Send records to every connected peer."""
        message = _Records(records=tuple(records))
        for peer in list(self._outboxes):
            self._post(peer, message)

    async def leave(self) -> None:
        """Tell every connected peer that this one goes; what was posted before is sent first."""
        for peer in list(self._outboxes):
            self._post(peer, _Leave())
            self._close_outbox(peer)
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            while self._speaking:
                await self._spoken.wait()

    # connections

    async def _watch_connections(self) -> None:
        """Greet who is connected, and look for who was.

        The end of a connection may be known by the end of the gossip on it before it is known here;
        so who was connected is remembered apart from the outboxes.
        """
        before: frozenset[PeerId] = frozenset()
        async for _ in self._host.connections:
            connected = self._host.connected()
            for peer in connected - self._outboxes.keys():
                self._open_outbox(peer)
            for peer in before - connected:
                self._close_outbox(peer)
                self._take(self._view.membership.cut(peer, trio.current_time()))
                self._disconnected(peer)
                if self._is_out_of_reach(peer):  # it went before it had told what it knows
                    self._view.forget(peer)
                self._seek(peer)
            before = connected

    async def _keep_bootstrap(self, address: str) -> None:
        """Stay connected to one bootstrap for as long as this peer lives."""
        peer: PeerId | None = None
        delay = REDIAL_FIRST_S
        warned = False
        while True:
            if peer is not None and peer in self._host.connected():
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

    def _seek(self, peer: PeerId) -> None:
        """Dial `peer` in the background if it is wanted and not connected."""
        record = self._view.peer(peer)
        wanted = record is not None and bool(record.addresses) and self._wants(record)
        if not wanted or peer in self._dialling or peer in self._host.connected():
            return
        if peer != self._view.me and self._nursery is not None:
            self._dialling.add(peer)
            self._nursery.start_soon(self._dial, peer)

    def _awaited(self, peer: PeerId) -> bool:
        """Whether `peer` is to be connected to and has said nothing yet."""
        record = self._view.peer(peer)
        wanted = record is not None and bool(record.addresses) and self._wants(record)
        unheard = self._view.membership.state(peer) is MemberState.DEAD
        return wanted and unheard and peer != self._view.me

    def _wants(self, record: PeerRecord) -> bool:
        return self._role is not Role.CLIENT or record.role in {Role.BOOTSTRAP, Role.REGISTRY}

    async def _dial(self, peer: PeerId) -> None:
        try:
            if self._settled:
                await trio.sleep(COURTESY_S)
            delay = REDIAL_FIRST_S
            for _ in range(FORGET_AFTER_DIALS):
                if peer in self._host.connected() or await self._dial_once(peer):
                    return
                if self._view.membership.state(peer) is MemberState.LEFT:
                    break
                await trio.sleep(delay)
                delay = min(delay * 2, REDIAL_MOST_S)
            if self._view.membership.state(peer) not in {MemberState.ALIVE, MemberState.SUSPECT}:
                self._view.forget(peer)
        finally:
            self._dialling.discard(peer)

    async def _dial_once(self, peer: PeerId) -> bool:
        record = self._view.peer(peer)
        for address in () if record is None else record.addresses:
            try:
                async with self._dial_limit:
                    await self._host.connect(peer, address, timeout_s=DIAL_TIMEOUT_S)
            except PeerUnreachable as exc:
                log.debug("peer.unreachable", peer=peer, address=address, error=str(exc))
            else:
                return True
        return False

    # what this peer says

    def _open_outbox(self, peer: PeerId) -> None:
        if self._nursery is not None:
            send, receive = trio.open_memory_channel[_Message](OUTBOX)
            self._outboxes[peer] = send
            self._nursery.start_soon(self._speak, peer, send, receive)

    def _close_outbox(self, peer: PeerId) -> None:
        outbox = self._outboxes.pop(peer, None)
        if outbox is not None:
            outbox.close()

    def _post(self, peer: PeerId, message: _Message) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            return
        try:
            outbox.send_nowait(message)
        except trio.WouldBlock:
            log.warning("peer.too_slow", peer=peer, waiting=OUTBOX)
            self._close_outbox(peer)
            if self._nursery is not None:
                self._nursery.start_soon(self._host.disconnect, peer)

    async def _speak(
        self,
        peer: PeerId,
        mine: "trio.MemorySendChannel[_Message]",
        outbox: "trio.MemoryReceiveChannel[_Message]",
    ) -> None:
        """Own the gossip stream to one peer: sync, then send what is posted and hear the acks."""
        self._speaking += 1
        try:
            stream = await self._host.open_stream(peer, GOSSIP_PROTOCOL)
            try:
                await self._say_everything_then(outbox, peer, stream)
            finally:
                with trio.move_on_after(1, shield=True):
                    await stream.aclose()
        except* MyxoError as group:
            log.debug("peer.gossip_ended", peer=peer, error=str(group.exceptions[0]))
        finally:
            self._speaking -= 1
            self._spoken.set()
            self._spoken = trio.Event()
        if self._outboxes.get(peer) is mine:
            self._close_outbox(peer)
            await self._host.disconnect(peer)

    async def _say_everything_then(
        self, outbox: "trio.MemoryReceiveChannel[_Message]", peer: PeerId, stream: FramedStream
    ) -> None:
        for message in self._everything():
            await _send(stream, message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_acks, peer, stream)
            async for message in outbox:
                await _send(stream, message)
            await stream.finish()
            nursery.cancel_scope.cancel()

    def _everything(self) -> Iterable[_Message]:
        records = self._view.member_records()
        for start in range(0, len(records), RECORDS_PER_MESSAGE):
            yield _Records(records=tuple(records[start : start + RECORDS_PER_MESSAGE]))
        yield _Synced()

    async def _hear_acks(self, peer: PeerId, stream: FramedStream) -> None:
        while (frame := await stream.receive()) is not None:
            message = _parse(frame)
            if isinstance(message, _Ack):
                self._take_ack(peer, message)

    def _take_ack(self, peer: PeerId, ack: _Ack) -> None:
        first = self._view.membership.rtt(peer) is None
        self._view.set_load(peer, ack.load)
        self._take(self._view.membership.acked(peer, ack.sequence, trio.current_time()))
        self._view.touch()
        if first:
            self._changed()

    async def _tick(self) -> None:
        while True:
            now = trio.current_time()
            probes, changes = self._view.membership.tick(now)
            self._take(changes)
            for probe in probes:
                self._send_probe(probe)
            await trio.sleep(TICK_S)
            overslept = trio.current_time() - now - TICK_S
            if overslept > STALL_S:
                self._view.membership.stood_still(overslept)

    def _send_probe(self, probe: Probe) -> None:
        self._post(probe.peer, _Probe(sequence=probe.sequence))

    # what others say

    async def _serve_gossip(self, peer: PeerId, stream: FramedStream) -> None:
        """Hear one peer out; it counts as there once it has told everything it knows.

        Not before: a peer that comes back has new records, and its old ones are void.
        """
        synced = False
        while (frame := await stream.receive()) is not None:
            match _parse(frame):
                case _Probe(sequence=sequence):
                    await _send(stream, _Ack(sequence=sequence, load=self._load()))
                case _Records(records=records):
                    self._take_records(peer, records)
                case _Synced():
                    synced = True
                    self._joined.set()
                case _Leave():
                    self._take(self._view.membership.left(peer, trio.current_time()))
                    continue
                case _:
                    log.debug("peer.unexpected_message", peer=peer)
            if synced:
                self._take(self._view.membership.heard(peer, trio.current_time()))

    def _take_records(self, source: PeerId, records: Iterable[Signed]) -> None:
        news: list[Signed] = []
        for signed in records:
            if signed.signer == self._view.me:
                continue
            try:
                held = self._take_record(source, signed)
            except RecordRefused as exc:
                self._complain(source, exc)
                continue
            if held is not None:
                news.append(signed)
                self._seek(held.owner)
        if news:
            self._changed()
            if self._role is Role.BOOTSTRAP:
                for peer in list(self._outboxes):
                    if peer != source:
                        self._post(peer, _Records(records=tuple(news)))

    def _complain(self, source: PeerId, refused: RecordRefused) -> None:
        complaint = source, refused.reason
        seen = complaint in self._complaints or len(self._complaints) >= COMPLAINTS_REMEMBERED
        say = log.debug if seen else log.warning
        self._complaints.add(complaint)
        say("record.refused", source=source, reason=refused.reason, error=str(refused))

    def _take_record(self, source: PeerId, signed: Signed) -> Held | None:
        """Take a record into the view, but none of an undialable peer that another one speaks of.

        Such a peer, a client or one that said nothing of itself, is dialled by nobody, so that
        nothing would ever tell that it is gone.
        """
        held = self._view.apply(signed, time.time())
        if held is not None and held.owner != source and self._is_out_of_reach(held.owner):
            self._view.forget(held.owner)
            return None
        return held

    def _is_out_of_reach(self, peer: PeerId) -> bool:
        met = self._view.membership.state(peer) is not MemberState.DEAD
        return not met and not self._dialable(peer) and peer not in self._host.connected()

    def _dialable(self, peer: PeerId) -> bool:
        record = self._view.peer(peer)
        return record is not None and bool(record.addresses)

    def _take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._heard.set()
            self._heard = trio.Event()
            log.info("peer.state_changed", peer=change.peer, state=change.state.value)
            self._view.touch()
            self._changed()
            if change.state is MemberState.DEAD and self._nursery is not None:
                self._nursery.start_soon(self._host.disconnect, change.peer)
            if change.state in {MemberState.DEAD, MemberState.LEFT}:
                self._forget_undialable(change.peer)

    def _forget_undialable(self, peer: PeerId) -> None:
        if not self._dialable(peer):
            self._view.forget(peer)


async def _send(stream: FramedStream, message: _Message) -> None:
    await stream.send(message.model_dump_json().encode())


def _parse(frame: bytes) -> _Message | None:
    try:
        return _MESSAGE.validate_json(frame)
    except ValidationError:
        return None
