"""A relay: joins who cannot be dialled with who wants to reach them (libp2p's circuit relay v2).

A hidden peer holds a reservation for as long as it is connected. Whoever names it gets a stream to
it, joined byte by byte with the stream that was asked on: what runs over the two is a connection
from end to end, of which the relay sees the ciphertext. A slow reader at one end makes the writer
at the other wait, by the windows of the two streams between; here lie at most both of these.

Only members have connections, so that nobody is kept out; the bounds keep one member from taking
what is there for all. What a circuit may carry is bounded so that a forgotten one ends some day.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from overlay.addresses import parse_addresses
from overlay.circuits import (
    HOP_PROTOCOL,
    STOP_PROTOCOL,
    Answer,
    CircuitLimit,
    Connect,
    Reserve,
    Status,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    read_delimited,
)
from overlay.connection import Connection, MuxedBytes
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable, ProtocolRefused, StreamCut
from overlay.host import Host
from overlay.names import PeerId

ASK_TIMEOUT_S = 10.0
"""For one message to come: a stream's agreement takes two round trips, this one half."""

_READ_BYTES = 64 * 1024
_RESET_S = 0.5

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RelayBounds:
    """What a relay gives.

    Attributes:
        reservations: at once; each is a hidden peer that is connected anyway.
        circuits: at once. Two streams with a window of 256 KiB in each direction can lie on one, so
            that 512 take 512 MiB at the very worst; an idle one takes some 60 KB.
        circuits_per_peer: at once, from and to one peer; half the streams that its connection has,
            as the other half is for what the relay itself has to say.
        reservation_s: how long a reservation holds unless it is renewed; go-libp2p's hour.
        circuit_s: how long a circuit may last. Who reaches a peer for longer connects anew; a day
            makes that rare.
        circuit_bytes: in each direction of a circuit; what 12 MB/s fill in a day.
    """

    reservations: int = 512
    circuits: int = 512
    circuits_per_peer: int = 128
    reservation_s: float = 3600.0
    circuit_s: float = 24 * 3600.0
    circuit_bytes: int = 1 << 40

    @property
    def limit(self) -> CircuitLimit:
        """What a circuit may carry, as it is said to both ends."""
        return CircuitLimit(int(self.circuit_s), self.circuit_bytes)


@dataclass(slots=True)
class RelayTable:
    """Who has a reservation, and how many circuits there are; pure."""

    bounds: RelayBounds = field(default_factory=RelayBounds)
    _expiry: dict[PeerId, float] = field(default_factory=dict)
    _circuits: Counter[PeerId] = field(default_factory=Counter)
    _total: int = 0

    def reserve(self, peer: PeerId, now: float, connected: Callable[[PeerId], bool]) -> Status:
        """Make or renew a reservation; those of peers that are gone make room.

        Returns:
            `OK` or why not.
        """
        if peer not in self._expiry and len(self._expiry) >= self.bounds.reservations:
            self._drop_void(now, connected)
        if peer not in self._expiry and len(self._expiry) >= self.bounds.reservations:
            return Status.RESERVATION_REFUSED
        self._expiry[peer] = now + self.bounds.reservation_s
        return Status.OK

    def open(self, source: PeerId, target: PeerId, now: float) -> Status:
        """Count a circuit from `source` to `target`; on `OK` the caller calls `close` at its end.

        Returns:
            `OK` or why there must not be one.
        """
        if source == target:
            return Status.PERMISSION_DENIED
        if self._expiry.get(target, now) <= now:
            return Status.NO_RESERVATION
        fullest = max(self._circuits[source], self._circuits[target])
        if self._total >= self.bounds.circuits or fullest >= self.bounds.circuits_per_peer:
            return Status.RESOURCE_LIMIT_EXCEEDED
        self._total += 1
        self._circuits.update((source, target))
        return Status.OK

    def close(self, source: PeerId, target: PeerId) -> None:
        """Count the end of a circuit."""
        self._total -= 1
        for peer in (source, target):
            self._circuits[peer] -= 1
            if not self._circuits[peer]:
                del self._circuits[peer]

    @property
    def circuits(self) -> int:
        """How many circuits there are."""
        return self._total

    def _drop_void(self, now: float, connected: Callable[[PeerId], bool]) -> None:
        kept = {p: at for p, at in self._expiry.items() if at > now and connected(p)}
        self._expiry = kept


class Relay:
    """Relays for a host's peers from the moment it is made.

    Args:
        host: whose peers.
        addresses: returns the multiaddrs under which others can dial this host.
        clock: returns the seconds since 1970, for what is said of a reservation's end.
        bounds: what it gives.

    Attributes:
        table: reservations and circuits.
    """

    def __init__(
        self,
        host: Host,
        addresses: Callable[[], Sequence[str]],
        clock: Callable[[], float],
        bounds: RelayBounds | None = None,
    ) -> None:
        self.table = RelayTable(bounds or RelayBounds())
        self._host = host
        self._addresses = addresses
        self._clock = clock
        host.handle_bytes(HOP_PROTOCOL, self._serve)

    async def _serve(self, connection: Connection, stream: MuxedBytes) -> None:
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                message = decode_hop(await read_delimited(stream))
        except MalformedMessage as exc:
            log.debug("relay.malformed", peer=connection.peer, reason=str(exc))
            await _answer(stream, Status.MALFORMED_MESSAGE)
            return
        if connection.relayed and not isinstance(message, Answer):
            await _answer(stream, Status.PERMISSION_DENIED)  # a circuit over a circuit
            return
        match message:
            case Reserve():
                await self._reserve(connection.peer, stream)
            case Connect(peer=target):
                await self._connect(connection.peer, target, stream)
            case Answer():
                await _answer(stream, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, peer: PeerId, stream: MuxedBytes) -> None:
        named = parse_addresses(f"{one}/p2p/{self._host.peer_id}" for one in self._addresses())
        own = tuple(one for one in named if one.relay is None)
        if not own:  # who is hidden itself leads nobody on
            await _answer(stream, Status.RESERVATION_REFUSED)
            return
        bounds = self.table.bounds
        status = self.table.reserve(peer, trio.current_time(), self._host.is_direct)
        if status is not Status.OK:
            log.warning("relay.full", peer=peer, reservations=bounds.reservations)
            await _answer(stream, status)
            return
        expires_at = int(self._clock() + bounds.reservation_s)
        answer = Answer(Status.OK, expires_at, own, bounds.limit)
        log.debug("relay.reserved", peer=peer)
        await stream.write(encode_hop(answer))
        await stream.close()

    async def _connect(self, source: PeerId, target: PeerId, stream: MuxedBytes) -> None:
        status = self.table.open(source, target, trio.current_time())
        if status is not Status.OK:
            await _answer(stream, status)
            return
        try:
            onward = await self._open_onward(source, target)
            if onward is None:
                await _answer(stream, Status.CONNECTION_FAILED)
                return
            try:
                await stream.write(encode_hop(Answer(Status.OK, limit=self.table.bounds.limit)))
                await self._splice(stream, onward)
            finally:
                await _reset(stream, onward)
        finally:
            self.table.close(source, target)

    async def _open_onward(self, source: PeerId, target: PeerId) -> MuxedBytes | None:
        """Return a stream that the hidden peer has accepted as one from `source`, or None."""
        try:
            onward = await self._host.open_bytes(target, STOP_PROTOCOL)
        except (PeerUnreachable, ProtocolRefused) as exc:
            log.debug("relay.target_lost", target=target, reason=str(exc))
            return None
        accepted = False
        try:
            with trio.move_on_after(ASK_TIMEOUT_S):
                await onward.write(encode_stop(Connect(source, self.table.bounds.limit)))
                answer = decode_stop(await read_delimited(onward))
                accepted = isinstance(answer, Answer) and answer.status == Status.OK
        except MyxoError as exc:
            log.debug("relay.target_failed", target=target, reason=str(exc))
        finally:
            if not accepted:
                await _reset(onward)
        return onward if accepted else None

    async def _splice(self, one: MuxedBytes, other: MuxedBytes) -> None:
        """Carry bytes both ways until both directions have ended, or a bound is met."""
        with trio.move_on_after(self.table.bounds.circuit_s):
            async with trio.open_nursery() as nursery:

                async def carry(source: MuxedBytes, sink: MuxedBytes) -> None:
                    if not await _copy(source, sink, self.table.bounds.circuit_bytes):
                        nursery.cancel_scope.cancel()

                nursery.start_soon(carry, one, other)
                nursery.start_soon(carry, other, one)


async def _copy(source: MuxedBytes, sink: MuxedBytes, most: int) -> bool:
    """Carry bytes to their end; return whether it is one, and neither a cut nor a bound."""
    try:
        while data := await source.read(_READ_BYTES):
            await sink.write(data)
            most -= len(data)
            if most <= 0:
                return False
        await sink.end()
    except StreamCut:
        return False
    return True


async def _answer(stream: MuxedBytes, status: Status) -> None:
    await stream.write(encode_hop(Answer(status)))
    await stream.close()


async def _reset(*streams: MuxedBytes) -> None:
    with trio.move_on_after(_RESET_S) as cleanup:
        cleanup.shield = True
        for stream in streams:
            if not stream.is_over:
                await stream.reset()
