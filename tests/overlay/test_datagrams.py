import math
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.coordinates import Coordinate
from overlay.datagrams import (
    DIMENSIONS,
    MAX_DATAGRAM_BYTES,
    MAX_LOAD_ENTRIES,
    MAX_MESSAGE_BYTES,
    SEAL_BYTES,
    decode,
    encode,
    load_that_fits,
    updates_room,
)
from overlay.errors import MalformedMessage
from overlay.identity import Identity
from overlay.membership.messages import (
    LOAD_BYTES,
    MESSAGE_BYTES,
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
    room_beside,
)
from overlay.names import InstanceId
from overlay.spec import MOST

PEERS = [Identity.from_seed(bytes([n]) * 32).peer_id for n in range(4)]
PEER, OTHER, *_ = PEERS

MOST_UNSIGNED = 2**64 - 1

peers = st.sampled_from(PEERS)
numbers = st.integers(0, MOST_UNSIGNED)
signatures = st.binary(min_size=64, max_size=64)
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)
vectors = st.tuples(*[singles] * DIMENSIONS)
coordinates = st.builds(Coordinate, vectors, error=singles, adjustment=singles, height=singles)
instances = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True).map(InstanceId)
loads = st.lists(st.tuples(instances, st.integers(0, MOST)), max_size=4).map(tuple)

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, numbers, peers),
    st.builds(Ack, numbers, st.none() | coordinates, loads),
    st.builds(PingReq, numbers, peers),
    st.builds(Nack, numbers),
    st.just(Gossip()),
)
updates: st.SearchStrategy[Update] = st.one_of(
    st.builds(Alive, peers, numbers, signatures),
    st.builds(Left, peers, numbers, signatures),
    st.builds(Suspect, peers, numbers, peers),
    st.builds(Dead, peers, numbers, peers),
)
update_lists = st.lists(updates, max_size=5)

NOWHERE = Coordinate((0.0,) * DIMENSIONS, error=1.5, adjustment=0.0, height=0.00001)


@given(message=messages, told=update_lists)
def test_what_is_encoded_comes_back_and_nothing_is_lost(
    message: Message, told: Sequence[Update]
) -> None:
    assert decode(encode(message, told)) == (message, tuple(told))


@given(message=messages, told=update_lists)
def test_an_update_takes_the_bytes_that_it_states_and_a_message_leaves_the_rest(
    message: Message, told: Sequence[Update]
) -> None:
    said = sum(update.SIZE for update in told)
    assert len(encode(message, told)) == MAX_MESSAGE_BYTES - updates_room(message) + said


@given(message=messages)
def test_the_protocol_leaves_room_for_a_message_and_what_load_the_shell_adds(
    message: Message,
) -> None:
    assert MESSAGE_BYTES == MAX_MESSAGE_BYTES
    if isinstance(message, Ack):
        message = replace(message, load=load_that_fits(message.load, LOAD_BYTES))
    assert room_beside(message) <= updates_room(message)


@given(data=st.binary(max_size=MAX_DATAGRAM_BYTES + 50))
def test_arbitrary_bytes_are_a_message_or_malformed(data: bytes) -> None:
    decoded_or_malformed(data)


@given(kind=st.integers(0, 7), data=st.binary(max_size=300))
def test_arbitrary_bytes_behind_a_good_head_are_a_message_or_malformed(
    kind: int, data: bytes
) -> None:
    decoded_or_malformed(bytes([1, kind]) + data)


@given(message=messages, told=update_lists, data=st.data())
def test_flipped_bits_are_another_message_or_malformed(
    message: Message, told: Sequence[Update], data: st.DataObject
) -> None:
    sent = bytearray(encode(message, told))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(sent) - 1), min_size=1, max_size=8)):
        sent[bit // 8] ^= 1 << bit % 8
    decoded_or_malformed(bytes(sent))


def decoded_or_malformed(data: bytes) -> None:
    """What is understood is understood to the last byte: it encodes to the same bytes."""
    try:
        message, told = decode(data)
    except MalformedMessage:
        return
    assert encode(message, told) == data


@given(message=messages, told=update_lists, data=st.data())
def test_a_message_that_is_cut_is_malformed_unless_whole_updates_are_missing(
    message: Message, told: Sequence[Update], data: st.DataObject
) -> None:
    sent = encode(message, told)
    cut = data.draw(st.integers(0, len(sent) - 1))
    whole = {len(encode(message, told[:n])) for n in range(len(told))}
    if cut in whole:
        assert decode(sent[:cut])[0] == message
    else:
        with pytest.raises(MalformedMessage):
            decode(sent[:cut])


@given(message=messages, trailing=st.binary(min_size=1, max_size=72))
def test_trailing_bytes_are_malformed(message: Message, trailing: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(encode(message) + trailing)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_malformed_and_named(version: int) -> None:
    with pytest.raises(MalformedMessage, match=f"version {version}"):
        decode(bytes([version]) + encode(Gossip())[1:])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(DIMENSIONS + 3))
def test_a_coordinate_that_is_not_finite_is_malformed(number: float, at: int) -> None:
    sent = bytearray(encode(Ack(1, NOWHERE)))
    struct.pack_into(">f", sent, len(sent) - 4 * (DIMENSIONS + 3) + 4 * at, number)
    with pytest.raises(MalformedMessage, match="finite"):
        decode(bytes(sent))


def test_a_datagram_over_the_limit_is_malformed() -> None:
    told = [Suspect(PEER, 1, OTHER)] * (MAX_MESSAGE_BYTES // Suspect.SIZE + 1)
    sent = encode(Gossip()) + encode(Gossip(), told[:1])[2:] * len(told)
    with pytest.raises(MalformedMessage, match="over"):
        decode(sent)


@given(
    one=st.lists(st.floats(-1, 1), min_size=DIMENSIONS, max_size=DIMENSIONS),
    other=st.lists(st.floats(-1, 1), min_size=DIMENSIONS, max_size=DIMENSIONS),
    heights=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_distance_is_the_same_to_a_microsecond_after_the_journey(
    one: list[float], other: list[float], heights: tuple[float, float]
) -> None:
    ends = [
        Coordinate(tuple(vector), error=0.1, adjustment=0.0, height=height)
        for vector, height in zip((one, other), heights, strict=True)
    ]
    arrived = [decoded_coordinate(end) for end in ends]
    assert math.isclose(
        ends[0].distance_to(ends[1]), arrived[0].distance_to(arrived[1]), abs_tol=1e-6, rel_tol=0
    )


def decoded_coordinate(place: Coordinate) -> Coordinate:
    ack, _ = decode(encode(Ack(1, place)))
    assert isinstance(ack, Ack)
    assert ack.coordinate is not None
    return ack.coordinate


@pytest.mark.parametrize("message", [Ping(1, PEER), Ack(1, NOWHERE), PingReq(1, PEER), Gossip()])
def test_a_datagram_that_is_filled_to_its_room_fits(message: Message) -> None:
    news = [Alive(PEER, 1, bytes(64))] * (updates_room(message) // Alive.SIZE)
    assert len(news) >= 10
    assert len(encode(message, news)) + SEAL_BYTES <= MAX_DATAGRAM_BYTES
    with pytest.raises(ValueError, match="do not fit"):
        encode(message, [*news, news[0]])


@pytest.mark.parametrize(
    "message",
    [
        Ping(-1, PEER),
        Nack(2**64),
        Ack(1, None, ((InstanceId("i"), -1),)),
        Ack(1, None, ((InstanceId("i"), MOST + 1),)),
        Ack(1, None, ((InstanceId(""), 1),)),
        Ack(1, None, ((InstanceId("i" * 129), 1),)),
        Ack(1, None, ((InstanceId("é"), 1),)),
        Ack(1, None, ((InstanceId("i"), 1),) * (MAX_LOAD_ENTRIES + 1)),
        Ack(1, Coordinate((0.0,) * 3, error=1.0, adjustment=0.0, height=0.0)),
        Ack(1, Coordinate((1e39,) * DIMENSIONS, error=1.0, adjustment=0.0, height=0.0)),
    ],
)
def test_what_could_not_be_decoded_is_not_encoded(message: Message) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each field says it in its own words)
        encode(message)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(65)])
def test_a_signature_is_never_filled_or_cut(signature: bytes) -> None:
    with pytest.raises(ValueError, match="signature"):
        encode(Gossip(), [Alive(PEER, 1, signature)])


@given(
    load=st.lists(st.tuples(instances, st.integers(0, MOST)), max_size=12),
    room=st.integers(0, 400),
    start=st.integers(0, 1000),
)
def test_load_is_told_as_far_as_it_fits(
    load: list[tuple[InstanceId, int]], room: int, start: int
) -> None:
    told = load_that_fits(load, room, start)
    empty = len(encode(Ack(1, None)))
    assert len(encode(Ack(1, None, told))) - empty <= room
    if len(told) < len(load):
        more = (*told, load[(start + len(told)) % len(load)])
        assert len(encode(Ack(1, None, more))) - empty > room


def test_a_load_that_is_larger_than_a_datagram_is_told_in_turn() -> None:
    load = [(InstanceId(f"i{n:011}"), n) for n in range(200)]
    start = 0
    told: set[tuple[InstanceId, int]] = set()
    for _ in range(4):
        part = load_that_fits(load, updates_room(Ack(1, NOWHERE)), start)
        encode(Ack(1, NOWHERE, part))
        start += len(part)
        told.update(part)
    assert told == set(load)
