"""Membership messages as bytes: what a datagram carries once its seal is off.

    byte 0     version of this layout, 1
    byte 1     kind of message
    then       the message's own fields
    then       updates until the end, each a byte of kind and its fields

All numbers are big-endian. A peer is its 32-byte public key, from which its id follows. Sequence
numbers and incarnations take 8 bytes. A coordinate is 11 numbers of 4 bytes: below 16 s each is off
by less than half a microsecond, which is nothing beside the error that it states, and 8 bytes
would cost half an update's room in every ack.

A datagram is either understood to its last byte or is no message at all: whatever else arrives is
`MalformedMessage`, the only error that decoding raises.
"""

import math
import re
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import assert_never

from overlay.coordinates import DEFAULT_KNOBS, Coordinate
from overlay.errors import MalformedMessage
from overlay.identity import peer_id_of, public_key_of
from overlay.membership.messages import (
    Ack,
    Alive,
    Dead,
    Gossip,
    Left,
    Message,
    Nack,
    Ping,
    PingReq,
    Suspect,
    Update,
)
from overlay.names import InstanceId
from overlay.records import MAX_OWNERS
from overlay.spec import MOST

MAX_DATAGRAM_BYTES = 1200
"""Passes every link without being cut in parts: IPv6 promises 1,280 bytes (RFC 8200 section 5), of
which 48 are headers and some are left to tunnels. QUIC sends as much (RFC 9000 section 14)."""

SEAL_BYTES = 32
"""What sealing adds: a tag of 8 bytes, a counter of 8, an authenticator of 16."""

MAX_MESSAGE_BYTES = MAX_DATAGRAM_BYTES - SEAL_BYTES

MAX_LOAD_ENTRIES = 255
"""One byte counts them. With the 12 signs that allocators use, 68 fill a datagram."""

DIMENSIONS = DEFAULT_KNOBS.dimensions

_VERSION = 1

_PING, _ACK, _PING_REQ, _NACK, _GOSSIP = range(1, 6)
_ALIVE, _LEFT, _SUSPECT, _DEAD = range(1, 5)

_HEAD = struct.Struct(">BB")
_SEQUENCE = struct.Struct(">Q")
_TARGETED = struct.Struct(">Q32s")
_ACK_HEAD = struct.Struct(">QBB")
_COORDINATE = struct.Struct(f">{DIMENSIONS + 3}f")
_IN_FLIGHT = struct.Struct(">I")
_SIGNED = struct.Struct(">B32sQ64s")
_ACCUSED = struct.Struct(">B32sQ32s")

_INSTANCE = re.compile(rb"[A-Za-z0-9._-]{1,128}")
"""As in `InstanceRecord`."""

_SIGNATURE_BYTES = 64

_key_of = lru_cache(maxsize=2 * MAX_OWNERS)(public_key_of)
_peer_of = lru_cache(maxsize=2 * MAX_OWNERS)(peer_id_of)
"""Each takes some 10 to 20 µs, more than all the rest; a view's peers, and as many strangers."""


def encode(message: Message, updates: Sequence[Update] = ()) -> bytes:
    """Return the bytes of `message` with `updates`.

    Raises:
        ValueError: it does not fit `MAX_MESSAGE_BYTES`, or a number does not fit its field; the
            caller has `updates_room` and `load_that_fits` to prevent it.
    """
    try:
        data = b"".join(chain((_encoded(message),), map(_encoded_update, updates)))
    except (struct.error, OverflowError) as exc:
        raise ValueError(f"{message} or one of its updates has no encoding: {exc}") from exc
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(data)} bytes do not fit a datagram's {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes) -> tuple[Message, tuple[Update, ...]]:
    """Return the message and updates that `data` says.

    Raises:
        MalformedMessage: it is anything else than what `encode` makes.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise MalformedMessage(f"a datagram of {len(data)} bytes is over {MAX_MESSAGE_BYTES}")
    try:
        message, at = _decoded(data)
        return message, tuple(_decoded_updates(data, at))
    except struct.error as exc:
        raise MalformedMessage(f"a datagram of {len(data)} bytes ends too early") from exc


def updates_room(message: Message) -> int:
    """Return how many bytes of updates fit a datagram beside `message`."""
    return MAX_MESSAGE_BYTES - len(_encoded(message))


def load_that_fits(
    load: Sequence[tuple[InstanceId, int]], room: int, start: int = 0
) -> tuple[tuple[InstanceId, int], ...]:
    """Return as many entries of `load` as fit `room` bytes, from entry `start` on and around.

    A caller that adds what was returned to `start` each time says everything in turn.
    """
    found: list[tuple[InstanceId, int]] = []
    for at in range(min(len(load), MAX_LOAD_ENTRIES)):
        entry = load[(start + at) % len(load)]
        room -= 1 + len(entry[0]) + _IN_FLIGHT.size
        if room < 0:
            break
        found.append(entry)
    return tuple(found)


def _encoded(message: Message) -> bytes:
    match message:
        case Ping():
            return _HEAD.pack(_VERSION, _PING) + _targeted(message)
        case Ack():
            return _HEAD.pack(_VERSION, _ACK) + _encoded_ack(message)
        case PingReq():
            return _HEAD.pack(_VERSION, _PING_REQ) + _targeted(message)
        case Nack():
            return _HEAD.pack(_VERSION, _NACK) + _SEQUENCE.pack(message.sequence)
        case Gossip():
            return _HEAD.pack(_VERSION, _GOSSIP)
        case _:
            assert_never(message)


def _targeted(message: Ping | PingReq) -> bytes:
    return _TARGETED.pack(message.sequence, _key_of(message.target))


def _encoded_ack(ack: Ack) -> bytes:
    head = _ACK_HEAD.pack(ack.sequence, ack.coordinate is not None, len(ack.load))
    place = b"" if ack.coordinate is None else _encoded_coordinate(ack.coordinate)
    return head + place + _encoded_load(ack.load)


def _encoded_coordinate(place: Coordinate) -> bytes:
    return _COORDINATE.pack(*place.vector, place.error, place.adjustment, place.height)


def _encoded_load(load: Iterable[tuple[InstanceId, int]]) -> bytes:
    return b"".join(_encoded_entry(i.encode("ascii"), in_flight) for i, in_flight in load)


def _encoded_entry(instance: bytes, in_flight: int) -> bytes:
    if not _INSTANCE.fullmatch(instance) or in_flight > MOST:
        raise ValueError(f"{instance!r} with {in_flight} in flight is no instance's load")
    return bytes((len(instance),)) + instance + _IN_FLIGHT.pack(in_flight)


def _encoded_update(update: Update) -> bytes:
    match update:
        case Alive():
            return _signed(_ALIVE, update)
        case Left():
            return _signed(_LEFT, update)
        case Suspect():
            return _accused(_SUSPECT, update)
        case Dead():
            return _accused(_DEAD, update)
        case _:
            assert_never(update)


def _signed(kind: int, said: Alive | Left) -> bytes:
    if len(said.signature) != _SIGNATURE_BYTES:  # packing would fill or cut it
        raise ValueError(f"a signature of {len(said.signature)} bytes is none")
    return _SIGNED.pack(kind, _key_of(said.peer), said.incarnation, said.signature)


def _accused(kind: int, said: Suspect | Dead) -> bytes:
    return _ACCUSED.pack(kind, _key_of(said.peer), said.incarnation, _key_of(said.accuser))


def _decoded(data: bytes) -> tuple[Message, int]:
    version, kind = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise MalformedMessage(f"version {version} of datagrams is not spoken, only {_VERSION}")
    at = _HEAD.size
    if kind in {_PING, _PING_REQ}:
        sequence, key = _TARGETED.unpack_from(data, at)
        targeted = Ping if kind == _PING else PingReq
        return targeted(sequence, _peer_of(key)), at + _TARGETED.size
    if kind == _ACK:
        return _decoded_ack(data, at)
    if kind == _NACK:
        return Nack(*_SEQUENCE.unpack_from(data, at)), at + _SEQUENCE.size
    if kind == _GOSSIP:
        return Gossip(), at
    raise MalformedMessage(f"{kind} is no kind of message")


def _decoded_ack(data: bytes, at: int) -> tuple[Ack, int]:
    sequence, placed, entries = _ACK_HEAD.unpack_from(data, at)
    at += _ACK_HEAD.size
    place = None
    if placed == 1:
        place, at = _decoded_coordinate(data, at), at + _COORDINATE.size
    elif placed:
        raise MalformedMessage(f"{placed} does not say whether a coordinate follows")
    load = []
    for _ in range(entries):
        entry, at = _decoded_load(data, at)
        load.append(entry)
    return Ack(sequence, place, tuple(load)), at


def _decoded_coordinate(data: bytes, at: int) -> Coordinate:
    numbers: tuple[float, ...] = _COORDINATE.unpack_from(data, at)
    if not all(map(math.isfinite, numbers)):
        raise MalformedMessage("a coordinate has numbers that are not finite")
    error, adjustment, height = numbers[DIMENSIONS:]
    return Coordinate(numbers[:DIMENSIONS], error=error, adjustment=adjustment, height=height)


def _decoded_load(data: bytes, at: int) -> tuple[tuple[InstanceId, int], int]:
    end = at + 1 + data[at] if at < len(data) else at
    instance = data[at + 1 : end]
    (in_flight,) = _IN_FLIGHT.unpack_from(data, end)
    if not _INSTANCE.fullmatch(instance) or in_flight > MOST:
        raise MalformedMessage("an instance's load is malformed")
    return (InstanceId(instance.decode("ascii")), in_flight), end + _IN_FLIGHT.size


def _decoded_updates(data: bytes, at: int) -> Iterable[Update]:
    while at < len(data):
        kind = data[at]
        if kind in {_ALIVE, _LEFT}:
            _, key, incarnation, signature = _SIGNED.unpack_from(data, at)
            said = Alive if kind == _ALIVE else Left
            yield said(_peer_of(key), incarnation, signature)
            at += _SIGNED.size
        elif kind in {_SUSPECT, _DEAD}:
            _, key, incarnation, accuser = _ACCUSED.unpack_from(data, at)
            suspected = Suspect if kind == _SUSPECT else Dead
            yield suspected(_peer_of(key), incarnation, _peer_of(accuser))
            at += _ACCUSED.size
        else:
            raise MalformedMessage(f"{kind} is no kind of update")
