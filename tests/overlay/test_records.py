from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import records
from overlay.errors import RecordRefused
from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.records import (
    MAX_FUTURE_S,
    MAX_RECORD_BYTES,
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Record,
    RecordTable,
    Role,
    Version,
    sign_record,
    verified_record,
)
from overlay.signed import Purpose, Signed, sign

NOW = 1_700_000_000.0
OWNERS = [Identity.from_seed(bytes([n]) * 32) for n in range(3)]
OWNER = OWNERS[0]

versions = st.builds(
    Version, epoch=st.integers(0, 3).map(lambda n: NOW + n), counter=st.integers(0, 4)
)


def peer_record(version: Version, host: str = "host") -> PeerRecord:
    return PeerRecord(version=version, role=Role.ALLOCATOR, host=host)


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
said = st.lists(st.tuples(st.sampled_from(OWNERS), some_records), max_size=15)
FIRST = Version(epoch=NOW, counter=0)


def refusal(table: RecordTable, signed: Signed, now: float = NOW) -> str:
    with pytest.raises(RecordRefused) as refused:
        table.apply(signed, now)
    return refused.value.reason


@given(said=said, data=st.data())
def test_every_order_of_arrival_ends_with_each_owners_newest_records(
    said: Sequence[tuple[Identity, Record]], data: st.DataObject
) -> None:
    table = RecordTable()
    for owner, record in data.draw(st.permutations(said)):
        table.apply(sign_record(owner, record), NOW)
    for owner in OWNERS:
        held = {(h.record.kind, h.record.id): h.record.version for h in table.of(owner.peer_id)}
        assert held == newest(record for by, record in said if by == owner)


def newest(mine: Iterable[Record]) -> dict[tuple[str, str], Version]:
    """The dumb version: look at all of them."""
    best: dict[tuple[str, str], Version] = {}
    for record in sorted(mine, key=lambda r: (r.version.epoch, r.version.counter)):
        best[record.kind, record.id] = record.version
    return best


@given(record=some_records)
def test_a_record_is_news_once(record: Record) -> None:
    table = RecordTable()
    signed = sign_record(OWNER, record)
    held = table.apply(signed, NOW)
    assert held is not None
    assert (held.owner, held.record, held.signed) == (OWNER.peer_id, record, signed)
    assert table.apply(signed, NOW) is None


@given(one=versions, other=versions)
def test_of_two_versions_exactly_one_is_newer_unless_they_are_equal(
    one: Version, other: Version
) -> None:
    assert one.newer_than(other) + other.newer_than(one) == (one != other)


def test_a_restarted_owners_first_record_wins_over_its_last() -> None:
    table = RecordTable()
    table.apply(sign_record(OWNER, peer_record(Version(epoch=NOW, counter=999))), NOW)
    table.apply(sign_record(OWNER, peer_record(Version(epoch=NOW + 1, counter=0), "new")), NOW)
    record = table.peer(OWNER.peer_id)
    assert record is not None
    assert record.host == "new"


@given(record=some_records, data=st.data())
def test_a_forged_record_changes_nothing(record: Record, data: st.DataObject) -> None:
    table = RecordTable()
    genuine = sign_record(OWNER, record)
    forged = data.draw(
        st.sampled_from(
            [
                genuine.model_copy(update={"signer": OWNERS[1].peer_id}),
                genuine.model_copy(update={"payload": genuine.payload.replace(b":0", b":9", 1)}),
                genuine.model_copy(update={"signature": bytes(64)}),
                genuine.model_copy(update={"signer": "nobody"}),
                sign(OWNER, Purpose.REVISION, genuine.payload),
            ]
        )
    )
    if forged == genuine:
        return
    assert refusal(table, forged) == "signature"
    assert list(table.owners()) == []


def test_a_record_over_the_size_limit_is_refused_before_its_signature_is_looked_at() -> None:
    payload = b" " * (MAX_RECORD_BYTES + 1)
    assert refusal(RecordTable(), Signed(signer=OWNER.peer_id, payload=payload, signature=b"")) == (
        "size"
    )


@pytest.mark.parametrize(
    ("ahead_s", "taken"), [(MAX_FUTURE_S, True), (MAX_FUTURE_S + 1, False), (1e300, False)]
)
def test_a_record_dated_more_than_a_day_ahead_is_refused(ahead_s: float, taken: bool) -> None:
    table = RecordTable()
    signed = sign_record(OWNER, peer_record(Version(epoch=NOW + ahead_s, counter=0)))
    if taken:
        assert table.apply(signed, NOW) is not None
    else:
        assert refusal(table, signed) == "future"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"kind": "other"}',
        b'{"kind": "peer", "version": {"epoch": NaN, "counter": 0}, "role": "proxy", "host": "h"}',
        b'{"kind": "peer", "version": {"epoch": 1, "counter": -1}, "role": "proxy", "host": "h"}',
        b'{"kind": "peer", "version": {"epoch": 1, "counter": 0}, "role": "king", "host": "h"}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_signed_bytes_that_are_no_record_are_refused(payload: bytes) -> None:
    assert refusal(RecordTable(), sign(OWNER, Purpose.RECORD, payload)) == "malformed"


def test_an_owner_with_too_many_records_can_still_change_those_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS_PER_OWNER", 3)
    table = RecordTable()
    for n in range(3):
        table.apply(sign_record(OWNER, instance_record(FIRST, f"i{n}")), NOW)
    assert refusal(table, sign_record(OWNER, instance_record(FIRST, "i3"))) == "count"
    changed = instance_record(Version(epoch=NOW, counter=1), "i0")
    assert table.apply(sign_record(OWNER, changed), NOW) is not None
    assert len(list(table.of(OWNER.peer_id))) == 3


def test_a_full_view_refuses_strangers_until_somebody_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_OWNERS", 1)
    table = RecordTable()
    table.apply(sign_record(OWNERS[0], peer_record(FIRST)), NOW)
    stranger = sign_record(OWNERS[1], peer_record(FIRST))
    assert refusal(table, stranger) == "peers"
    table.forget(OWNERS[0].peer_id)
    assert table.apply(stranger, NOW) is not None


def test_a_forgotten_owner_leaves_nothing_behind() -> None:
    table = RecordTable()
    table.apply(sign_record(OWNER, peer_record(FIRST)), NOW)
    table.apply(sign_record(OWNER, instance_record(FIRST)), NOW)
    table.forget(OWNER.peer_id)
    assert table.peer(OWNER.peer_id) is None
    assert list(table.of(OWNER.peer_id)) == []
    assert list(table.owners()) == []


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
    ],
)
def test_what_no_allocator_says_of_an_instance_is_refused(change: dict[str, object]) -> None:
    record = instance_record(Version(epoch=NOW, counter=1)).model_copy(update=change)
    with pytest.raises(RecordRefused) as caught:
        verified_record(sign_record(OWNER, record), NOW)
    assert caught.value.reason == "malformed"


def test_a_host_name_that_would_steer_a_terminal_is_refused() -> None:
    record = peer_record(Version(epoch=NOW, counter=1)).model_copy(update={"host": "a\x1b[2Jb"})
    with pytest.raises(RecordRefused):
        verified_record(sign_record(OWNER, record), NOW)


def test_a_record_carries_the_key_and_port_of_its_owners_datagrams() -> None:
    update = {"datagram_key": bytes(range(32)), "datagram_port": 4001}
    record = peer_record(Version(epoch=NOW, counter=1)).model_copy(update=update)
    assert verified_record(sign_record(OWNER, record), NOW).record == record


@pytest.mark.parametrize(
    "change",
    [
        {"datagram_key": bytes(31)},
        {"datagram_key": bytes(33)},
        {"datagram_port": -1},
        {"datagram_port": 65536},
    ],
)
def test_a_key_or_port_of_datagrams_that_is_none_is_refused(change: dict[str, object]) -> None:
    record = peer_record(Version(epoch=NOW, counter=1)).model_copy(update=change)
    assert refusal(RecordTable(), sign_record(OWNER, record)) == "malformed"
