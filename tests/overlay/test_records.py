import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import RecordRefused
from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.records import (
    MAX_COUNTER,
    MAX_FUTURE_S,
    MAX_RECORD_BYTES,
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Record,
    Refusal,
    Role,
    Version,
    is_void,
    sign_record,
    verified_record,
)
from overlay.signed import Purpose, Signed, sign

NOW = 1_700_000_000.0
OWNER, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))

versions = st.builds(
    Version, epoch=st.integers(0, 3).map(lambda n: NOW + n), counter=st.integers(0, 4)
)


def peer_record(version: Version, **fields: object) -> PeerRecord:
    values = {"version": version, "role": Role.ALLOCATOR, "host": "host", **fields}
    return PeerRecord.model_validate(values)


def instance_record(version: Version, instance: str = "i1") -> InstanceRecord:
    return InstanceRecord(
        version=version,
        id=InstanceId(instance),
        service=ServiceName("hello"),
        revision=1,
        state=InstanceState.READY,
        concurrency=1,
    )


some_records = st.one_of(
    versions.map(peer_record),
    st.builds(instance_record, versions, st.sampled_from(["i1", "i2"])),
)
FIRST = Version(epoch=NOW, counter=1)


def refusal(signed: Signed, now: float = NOW) -> str:
    with pytest.raises(RecordRefused) as refused:
        verified_record(signed, now)
    return refused.value.reason


@given(record=some_records)
def test_a_signed_record_comes_back_with_its_owner_and_its_bytes(record: Record) -> None:
    signed = sign_record(OWNER, record)
    held = verified_record(signed, NOW)
    assert (held.owner, held.record, held.signed) == (OWNER.peer_id, record, signed)


@given(one=versions, other=versions)
def test_of_two_versions_exactly_one_is_newer_unless_they_are_equal(
    one: Version, other: Version
) -> None:
    assert one.newer_than(other) + other.newer_than(one) == (one != other)


@given(one=some_records, other=some_records)
def test_of_two_records_exactly_one_is_newer_unless_they_are_the_same(
    one: Record, other: Record
) -> None:
    first, second = (verified_record(sign_record(OWNER, r), NOW) for r in (one, other))
    assert first.newer_than(second) + second.newer_than(first) == (one != other)


@given(record=some_records, data=st.data())
def test_a_forged_record_is_refused(record: Record, data: st.DataObject) -> None:
    genuine = sign_record(OWNER, record)
    forged = data.draw(
        st.sampled_from(
            [
                genuine.model_copy(update={"signer": OTHER.peer_id}),
                genuine.model_copy(update={"payload": genuine.payload + b" "}),
                genuine.model_copy(update={"signature": bytes(64)}),
                genuine.model_copy(update={"signature": b""}),
                genuine.model_copy(update={"signer": "nobody"}),
                sign(OWNER, Purpose.REVISION, genuine.payload),
            ]
        )
    )
    assert refusal(forged) == Refusal.SIGNATURE


def test_a_record_over_the_size_limit_is_refused_before_its_signature_is_looked_at() -> None:
    payload = b" " * (MAX_RECORD_BYTES + 1)
    unsigned = Signed(signer=OWNER.peer_id, payload=payload, signature=b"")
    assert refusal(unsigned) == Refusal.SIZE


@pytest.mark.parametrize(
    ("ahead_s", "taken"), [(MAX_FUTURE_S, True), (MAX_FUTURE_S + 1, False), (1e300, False)]
)
def test_a_record_dated_more_than_a_day_ahead_is_refused(ahead_s: float, taken: bool) -> None:
    signed = sign_record(OWNER, peer_record(Version(epoch=NOW + ahead_s, counter=0)))
    if taken:
        verified_record(signed, NOW)
    else:
        assert refusal(signed) == Refusal.FUTURE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"kind": "other"}',
        b'{"kind": "peer", "version": {"epoch": NaN, "counter": 0}, "role": "proxy", "host": "h"}',
        b'{"kind": "peer", "version": {"epoch": 1, "counter": -1}, "role": "proxy", "host": "h"}',
        b'{"kind": "peer", "version": {"epoch": -1, "counter": 0}, "role": "proxy", "host": "h"}',
        b'{"kind": "peer", "version": {"epoch": 1, "counter": 0}, "role": "king", "host": "h"}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_signed_bytes_that_are_no_record_are_refused(payload: bytes) -> None:
    assert refusal(sign(OWNER, Purpose.RECORD, payload)) == Refusal.MALFORMED


@given(record=some_records)
def test_a_record_keeps_what_a_newer_myxo_may_add_in_its_signed_bytes(record: Record) -> None:
    payload = record.model_dump_json().encode()[:-1] + b',"added_later":[1,2]}'
    signed = sign(OWNER, Purpose.RECORD, payload)
    held = verified_record(signed, NOW)
    assert held.record == record
    assert held.signed.payload == payload


@pytest.mark.parametrize(
    "change",
    [
        {"concurrency": 10**400},
        {"concurrency": 0},
        {"service": "x" * 64},
        {"service": "Hello"},
        {"address": "\x1b]0;mine\x07"},
        {"version": Version.model_construct(epoch=NOW, counter=MAX_COUNTER + 1)},
    ],
)
def test_what_no_allocator_says_of_an_instance_is_refused(change: dict[str, object]) -> None:
    record = instance_record(FIRST).model_copy(update=change)
    assert refusal(sign_record(OWNER, record)) == Refusal.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        {"host": "a\x1b[2Jb"},  # would steer the terminal on which it is shown
        {"datagram_key": bytes(31)},
        {"datagram_key": bytes(33)},
        {"datagram_port": -1},
        {"datagram_port": 65536},
        {"floor": -1},
        {"floor": 2},  # above its own counter: no record that could follow would be below
    ],
)
def test_what_no_peer_says_of_itself_is_refused(change: dict[str, object]) -> None:
    record = peer_record(FIRST).model_copy(update=change)
    assert refusal(sign_record(OWNER, record)) == Refusal.MALFORMED


def test_a_record_carries_the_key_and_port_of_its_owners_datagrams() -> None:
    record = peer_record(FIRST, datagram_key=bytes(range(32)), datagram_port=4001)
    assert verified_record(sign_record(OWNER, record), NOW).record == record


def test_an_instance_is_gone_when_it_says_so_or_its_owner_says_that_its_record_is_void() -> None:
    ready = instance_record(Version(epoch=NOW, counter=5))
    assert is_void(ready.model_copy(update={"withdrawn": True}), None)
    for owner, void in [
        (None, False),
        (peer_record(Version(epoch=NOW, counter=9)), False),
        (peer_record(Version(epoch=NOW, counter=9), floor=5), False),
        (peer_record(Version(epoch=NOW, counter=9), floor=6), True),
        (peer_record(Version(epoch=NOW + 1, counter=0)), True),
        (peer_record(Version(epoch=NOW - 1, counter=9), floor=9), False),
    ]:
        assert is_void(ready, owner) == void
