"""What is said between a hidden peer, its relay and who wants to reach it: messages as bytes.

The messages are those of libp2p's circuit relay v2 (hop: to the relay; stop: from the relay to the
hidden peer) and of DCUtR, which turns a relayed connection into a direct one. Each goes as an
unsigned varint of its length and a protobuf; py-libp2p brings the generated classes. After the
relay's last message the same stream carries the circuit's bytes, so nothing may be read beyond it.

Sources: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md and DCUtR.md beside it.
Vouchers, which that text calls advisory, are neither made nor looked at.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import base58
import trio
from google.protobuf.message import DecodeError, Message
from libp2p.relay.circuit_v2.pb import circuit_pb2 as circuit
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from overlay.addresses import Address, parse_addresses
from overlay.errors import MalformedMessage, PeerUnreachable, SignatureInvalid, StreamCut
from overlay.framing import ByteStream, encode_varint
from overlay.identity import public_key_of
from overlay.names import PeerId

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"
PUNCH_PROTOCOL = "/libp2p/dcutr"

MAX_CIRCUIT_MESSAGE_BYTES = 4096
"""As the DCUtR specification has it, and go-libp2p for all three."""

MAX_CIRCUIT_ADDRESSES = 8
"""Taken from one message; what follows is ignored."""

_MAX_VARINT_BYTES = 2
_READ_BYTES = 256 * 1024
_CLOSE_S = 0.5
"""For saying that a circuit ends, where the connection that carries it is busy."""

_MAX_ID_BYTES = 42
"""An Ed25519 key's id has 38 bytes."""


class Status(IntEnum):
    """How a relay or a hidden peer answers."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class CircuitLimit:
    """What a relay carries on one circuit before it cuts it; 0 is no bound.

    Attributes:
        duration_s: from its beginning.
        data_bytes: in each direction.
    """

    duration_s: int = 0
    data_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reserve:
    """To a relay: let others reach me through you."""


@dataclass(frozen=True, slots=True)
class Connect:
    """To a relay: join this stream with one to `peer`. To a hidden peer: `peer` wants to reach you.

    Attributes:
        peer: the other end of the circuit.
        limit: what the relay will carry.
    """

    peer: PeerId
    limit: CircuitLimit = CircuitLimit()


@dataclass(frozen=True, slots=True)
class Answer:
    """To either.

    Attributes:
        status: one of `Status`, or a number that it does not have.
        expires_at: of a reservation, by the relay's clock, in seconds since 1970.
        addresses: where the relay says that it can be dialled.
        limit: what the relay will carry on each circuit.
    """

    status: int
    expires_at: int = 0
    addresses: tuple[Address, ...] = ()
    limit: CircuitLimit = CircuitLimit()

    @property
    def text(self) -> str:
        """The status for people."""
        known = self.status in Status.__members__.values()
        return Status(self.status).name.replace("_", " ").lower() if known else str(self.status)


@dataclass(frozen=True, slots=True)
class Observed:
    """Of DCUtR, from both: where I can perhaps be dialled in the moment in which I dial, too."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """Of DCUtR, from who initiates: dial now."""


def encode_hop(message: Reserve | Connect | Answer) -> bytes:
    """Return a message to or from a relay, with its length."""
    hop = circuit.HopMessage
    match message:
        case Reserve():
            return _delimited(hop(type=hop.RESERVE))
        case Connect(peer=peer):
            return _delimited(hop(type=hop.CONNECT, peer=_peer(peer)))
        case Answer():
            answer = hop(type=hop.STATUS, status=circuit.Status.ValueType(message.status))
            if message.expires_at:
                answer.reservation.expire = message.expires_at
                answer.reservation.addrs.extend(_encode_addresses(message.addresses))
            _put_limit(answer, message.limit)
            return _delimited(answer)


def decode_hop(data: bytes) -> Reserve | Connect | Answer:
    """Return the message to or from a relay that `data`, without its length, is.

    Raises:
        MalformedMessage: it is none.
    """
    message = _parse(circuit.HopMessage(), data)
    match message.type if message.HasField("type") else None:
        case circuit.HopMessage.RESERVE:
            return Reserve()
        case circuit.HopMessage.CONNECT:
            return Connect(_peer_id(message.peer.id))
        case circuit.HopMessage.STATUS:
            given = message.reservation
            addresses = decode_addresses(given.addrs)
            return Answer(message.status, given.expire, addresses, _limit(message.limit))
    raise MalformedMessage("a message of no known type came on the hop protocol")


def encode_stop(message: Connect | Answer) -> bytes:
    """Return a message between a relay and a hidden peer, with its length."""
    stop = circuit.StopMessage
    match message:
        case Connect(peer=peer):
            connect = stop(type=stop.CONNECT, peer=_peer(peer))
            _put_limit(connect, message.limit)
            return _delimited(connect)
        case Answer(status=status):
            return _delimited(stop(type=stop.STATUS, status=circuit.Status.ValueType(status)))


def decode_stop(data: bytes) -> Connect | Answer:
    """Return the message between a relay and a hidden peer that `data` is.

    Raises:
        MalformedMessage: it is none.
    """
    message = _parse(circuit.StopMessage(), data)
    match message.type if message.HasField("type") else None:
        case circuit.StopMessage.CONNECT:
            return Connect(_peer_id(message.peer.id), _limit(message.limit))
        case circuit.StopMessage.STATUS:
            return Answer(message.status)
    raise MalformedMessage("a message of no known type came on the stop protocol")


def encode_punch(message: Observed | Sync) -> bytes:
    """Return a message of DCUtR, with its length."""
    match message:
        case Observed(addresses=addresses):
            encoded = _encode_addresses(addresses)
            return _delimited(HolePunch(type=HolePunch.CONNECT, ObsAddrs=encoded))
        case Sync():
            return _delimited(HolePunch(type=HolePunch.SYNC))


def decode_punch(data: bytes) -> Observed | Sync:
    """Return the message of DCUtR that `data` is; addresses that are no TCP ones are left out.

    Raises:
        MalformedMessage: it is none.
    """
    message = _parse(HolePunch(), data)
    if message.type == HolePunch.SYNC:
        return Sync()
    return Observed(decode_addresses(message.ObsAddrs))


def decode_addresses(encoded: Iterable[bytes]) -> tuple[Address, ...]:
    """Return the first addresses of `encoded` that can be dialled without a relay, in order."""
    texts: list[str] = []
    for one in list(encoded)[:MAX_CIRCUIT_ADDRESSES]:
        with suppress(MultiaddrError, ValueError):
            texts.append(str(Multiaddr(one)))
    return tuple(one for one in dict.fromkeys(parse_addresses(texts)) if one.relay is None)


async def ask_for_circuit(stream: ByteStream, peer: PeerId) -> None:
    """Have the relay at the other end of `stream` turn it into a circuit to `peer`.

    Raises:
        PeerUnreachable: it does not; says why.
    """
    answer = await _ask(stream, encode_hop(Connect(peer)))
    if answer.status != Status.OK:
        raise PeerUnreachable(f"the relay makes no circuit to {peer}: {answer.text}")


async def ask_for_reservation(stream: ByteStream) -> Answer:
    """Return what the relay at the other end of `stream` grants, so that it lets others through.

    Raises:
        PeerUnreachable: it grants nothing; says why.
    """
    answer = await _ask(stream, encode_hop(Reserve()))
    if answer.status != Status.OK:
        raise PeerUnreachable(f"the relay makes no reservation: {answer.text}")
    return answer


async def _ask(stream: ByteStream, question: bytes) -> Answer:
    try:
        await stream.write(question)
        answer = decode_hop(await read_delimited(stream))
    except MalformedMessage as exc:
        raise PeerUnreachable(f"the relay answers nothing that makes sense: {exc}") from exc
    if not isinstance(answer, Answer):
        raise PeerUnreachable("the relay asks instead of answering")
    return answer


async def read_delimited(stream: ByteStream) -> bytes:
    """Return the next message on `stream` without its length, and read nothing beyond it.

    Raises:
        MalformedMessage: it is longer than `MAX_CIRCUIT_MESSAGE_BYTES`, or cut.
        StreamCut: the stream is lost.
    """
    length = 0
    for at in range(_MAX_VARINT_BYTES):
        (byte,) = await _read_exactly(stream, 1)
        length |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:  # noqa: PLR2004  (the varint's last byte)
            break
    else:
        length = MAX_CIRCUIT_MESSAGE_BYTES + 1
    if length > MAX_CIRCUIT_MESSAGE_BYTES:
        raise MalformedMessage(f"a message over {MAX_CIRCUIT_MESSAGE_BYTES} bytes was announced")
    return await _read_exactly(stream, length)


class CircuitStream(trio.abc.Stream):
    """A stream to or from a relay, as what a connection with the peer behind it runs on."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""
        self._check()
        try:
            await self._stream.write(bytes(data))
        except StreamCut as exc:
            raise trio.BrokenResourceError("the circuit is cut") from exc

    async def wait_send_all_might_not_block(self) -> None:
        """Return; `send_all` waits by itself."""
        self._check()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what came, or none at the end."""
        self._check()
        try:
            return await self._stream.read(max_bytes or _READ_BYTES)
        except StreamCut as exc:
            raise trio.BrokenResourceError("the circuit is cut") from exc

    async def aclose(self) -> None:
        """Close it in order, also where that is cancelled: a reset would overtake what was sent."""
        if not self._closed:
            self._closed = True
            with trio.move_on_after(_CLOSE_S) as last:
                last.shield = True
                await self._stream.close()
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the circuit was closed here")


async def _read_exactly(stream: ByteStream, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = await stream.read(n - len(data))
        if not more:
            raise MalformedMessage("the stream ended in the middle of a message")
        data += more
    return data


_M = TypeVar("_M", bound=Message)


def _parse(message: _M, data: bytes) -> _M:
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise MalformedMessage(f"what came is no {type(message).__name__}") from exc
    return message


def _delimited(message: Message) -> bytes:
    data = message.SerializeToString()
    return encode_varint(len(data)) + data


def _peer(peer: PeerId) -> circuit.PeerId:
    return circuit.PeerId(id=base58.b58decode(peer))


def _peer_id(raw: bytes) -> PeerId:
    peer = PeerId(base58.b58encode(raw[:_MAX_ID_BYTES]).decode())
    try:
        public_key_of(peer)
    except SignatureInvalid as exc:
        raise MalformedMessage("a message names no peer") from exc
    return peer


def _encode_addresses(addresses: Iterable[Address]) -> list[bytes]:
    return [Multiaddr(str(one)).to_bytes() for one in addresses][:MAX_CIRCUIT_ADDRESSES]


def _put_limit(message: circuit.HopMessage | circuit.StopMessage, limit: CircuitLimit) -> None:
    if limit != CircuitLimit():
        message.limit.duration = limit.duration_s
        message.limit.data = limit.data_bytes


def _limit(limit: circuit.Limit) -> CircuitLimit:
    return CircuitLimit(limit.duration, limit.data)
