from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import record_table
from overlay.errors import RecordRefused
from overlay.identity import Identity
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.record_table import RecordTable
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Refusal,
    Role,
    Version,
    sign_record,
)
from overlay.signed import Purpose, Signed, sign

NOW = 1_700_000_000.0
OWNERS = [Identity.from_seed(bytes([n]) * 32) for n in range(3)]
OWNER, OTHER, _ = OWNERS
FIRST = Version(epoch=NOW, counter=1)


def peer(version: Version = FIRST, owner: Identity = OWNER, **fields: object) -> Signed:
    values = {"version": version, "role": Role.ALLOCATOR, "host": "host", **fields}
    return sign_record(owner, PeerRecord.model_validate(values))


def instance(
    version: Version = FIRST, name: str = "i1", owner: Identity = OWNER, **fields: object
) -> Signed:
    values = {
        "version": version,
        "id": InstanceId(name),
        "service": ServiceName("hello"),
        "revision": 1,
        "state": InstanceState.READY,
        "concurrency": 1,
        **fields,
    }
    return sign_record(owner, InstanceRecord.model_validate(values))


@st.composite
def said_by(draw: st.DrawFn, owner: Identity) -> Signed:
    """Anything that one owner may ever sign, rightly or against the rules."""
    version = Version(epoch=NOW + draw(st.integers(0, 2)), counter=draw(st.integers(0, 5)))
    if draw(st.booleans()):
        return peer(version, owner, floor=draw(st.integers(0, version.counter)))
    name, withdrawn = draw(st.sampled_from(["i1", "i2", "i3"])), draw(st.booleans())
    return instance(version, name, owner, withdrawn=withdrawn)


said = st.lists(st.sampled_from(OWNERS).flatmap(said_by), max_size=20)


def contents(table: RecordTable) -> dict[PeerId, dict[tuple[str, str], bytes]]:
    return {o: {h.key: h.signed.payload for h in table.of(o)} for o in table.owners()}


def refusal(table: RecordTable, signed: Signed, now: float = NOW) -> str:
    with pytest.raises(RecordRefused) as refused:
        table.apply(signed, now)
    return refused.value.reason


@dataclass
class Dumb:
    """Keeps everything that it was ever told, and works the table out from all of it."""

    told: list[Signed] = field(default_factory=list)

    def contents(self) -> dict[PeerId, dict[tuple[str, str], bytes]]:
        made = {o.peer_id: dict(self._of(o.peer_id)) for o in OWNERS}
        return {owner: held for owner, held in made.items() if held}

    def _of(self, owner: PeerId) -> Iterable[tuple[tuple[str, str], bytes]]:
        parsed = [RecordTable().apply(s, NOW + 10) for s in self.told if s.signer == owner]
        every = sorted(
            (held for held in parsed if held is not None),
            key=lambda h: (h.record.version.epoch, h.record.version.counter, h.signed.payload),
        )
        floor = (0.0, 0)
        for held in every:
            if isinstance(held.record, PeerRecord):
                floor = held.record.version.epoch, held.record.floor
        for held in every:
            version = held.record.version.epoch, held.record.version.counter
            if isinstance(held.record, PeerRecord) or version >= floor:
                yield held.key, held.signed.payload


@given(said=said, data=st.data())
def test_any_order_and_duplication_ends_in_the_same_table(
    said: Sequence[Signed], data: st.DataObject
) -> None:
    table, again = RecordTable(), data.draw(st.lists(st.sampled_from(said))) if said else []
    for signed in data.draw(st.permutations([*said, *again])):
        table.apply(signed, NOW)
    assert contents(table) == Dumb(list(said)).contents()


@given(said=said)
def test_what_is_taken_is_told_and_what_it_voids_is_told_too(said: Sequence[Signed]) -> None:
    """Who follows what `apply` returns knows the table without looking at it."""
    table, followed = RecordTable(), dict[tuple[PeerId, tuple[str, str]], bytes]()
    for signed in said:
        held = table.apply(signed, NOW)
        if held is not None:
            followed[held.owner, held.key] = held.signed.payload
            for void in held.voids:
                del followed[void.owner, void.key]
    every = contents(table)
    assert followed == {(o, key): data for o in every for key, data in every[o].items()}


@given(said=said)
def test_every_record_is_taken_or_counted(said: Sequence[Signed]) -> None:
    table, taken = RecordTable(), 0
    for signed in said:
        taken += table.apply(signed, NOW) is not None
    assert taken + table.duplicates + table.refused.total() == len(said)
    assert table.refused.keys() <= {Refusal.STALE}
    held = [h for o in table.owners() for h in table.of(o)]
    assert table.payload_bytes == sum(len(h.signed.payload) for h in held)
    assert len(table) == len(held)


def test_a_duplicate_is_no_stale_record() -> None:
    table = RecordTable()
    old, new = peer(), peer(Version(epoch=NOW, counter=2))
    assert table.apply(old, NOW) is not None
    assert table.apply(old, NOW) is None
    assert (table.duplicates, table.refused) == (1, {})
    assert table.apply(new, NOW) is not None
    assert table.apply(old, NOW) is None
    assert table.apply(new, NOW) is None
    assert (table.duplicates, table.refused) == (2, {Refusal.STALE: 1})


def test_a_duplicate_under_a_forged_signature_is_refused() -> None:
    table, genuine = RecordTable(), peer()
    table.apply(genuine, NOW)
    forged = genuine.model_copy(update={"signature": bytes(64)})
    assert refusal(table, forged) == Refusal.SIGNATURE
    assert (table.duplicates, table.refused) == (0, {Refusal.SIGNATURE: 1})


def test_a_restarted_owners_first_record_wins_over_its_last() -> None:
    table = RecordTable()
    table.apply(peer(Version(epoch=NOW, counter=999)), NOW)
    table.apply(peer(Version(epoch=NOW + 1, counter=0), host="new"), NOW)
    record = table.peer(OWNER.peer_id)
    assert record is not None
    assert record.host == "new"


def test_a_withdrawn_record_beats_a_late_replay_before_and_after_it_is_dropped() -> None:
    table = RecordTable()
    ready = instance(Version(epoch=NOW, counter=1))
    withdrawn = instance(Version(epoch=NOW, counter=2), withdrawn=True)
    table.apply(withdrawn, NOW)
    assert table.apply(ready, NOW) is None
    held = table.apply(peer(Version(epoch=NOW, counter=4), floor=3), NOW)
    assert held is not None
    assert [void.signed for void in held.voids] == [withdrawn]
    for replayed in (ready, withdrawn):
        assert table.apply(replayed, NOW) is None
    assert [h.key for h in table.of(OWNER.peer_id)] == [("peer", "")]
    assert table.refused == {Refusal.STALE: 3}


def test_an_owners_next_life_makes_what_it_said_before_void() -> None:
    table = RecordTable()
    table.apply(peer(), NOW)
    table.apply(instance(), NOW)
    table.apply(instance(Version(epoch=NOW + 1, counter=1), "i2"), NOW)
    held = table.apply(peer(Version(epoch=NOW + 1, counter=0)), NOW)
    assert held is not None
    assert [void.key for void in held.voids] == [("instance", "i1")]
    assert table.instance(OWNER.peer_id, InstanceId("i1")) is None
    assert table.instance(OWNER.peer_id, InstanceId("i2")) is not None


def test_of_two_records_under_one_version_the_same_one_wins_everywhere() -> None:
    one, other = peer(host="one"), peer(host="other")
    first, second = RecordTable(), RecordTable()
    for signed in (one, other):
        first.apply(signed, NOW)
    for signed in (other, one):
        second.apply(signed, NOW)
    assert contents(first) == contents(second)


def test_each_refusal_is_counted_under_its_reason() -> None:
    table = RecordTable()
    forged = peer().model_copy(update={"signature": bytes(64)})
    assert refusal(table, forged) == Refusal.SIGNATURE
    assert refusal(table, sign(OWNER, Purpose.RECORD, b"{}")) == Refusal.MALFORMED
    assert refusal(table, sign(OWNER, Purpose.RECORD, b" " * 20_000)) == Refusal.SIZE
    assert refusal(table, peer(Version(epoch=NOW + 1e6, counter=0))) == Refusal.FUTURE
    assert refusal(table, forged) == Refusal.SIGNATURE
    assert table.refused == {
        Refusal.SIGNATURE: 2,
        Refusal.MALFORMED: 1,
        Refusal.SIZE: 1,
        Refusal.FUTURE: 1,
    }
    assert list(table.owners()) == []


def test_an_owner_with_too_many_records_can_still_change_those_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record_table, "MAX_RECORDS_PER_OWNER", 3)
    table = RecordTable()
    for n in range(3):
        table.apply(instance(name=f"i{n}"), NOW)
    assert refusal(table, instance(name="i3")) == Refusal.OWNER_COUNT
    assert table.apply(instance(Version(epoch=NOW, counter=2), "i0"), NOW) is not None
    assert table.apply(instance(name="i0", owner=OTHER), NOW) is not None
    assert len(list(table.of(OWNER.peer_id))) == 3


def test_an_owner_has_room_for_a_bounded_number_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = len(instance(name="i0").payload)
    monkeypatch.setattr(record_table, "MAX_OWNER_BYTES", 3 * size)
    table = RecordTable(mine=OWNER.peer_id)
    for n in range(3):
        table.apply(instance(name=f"i{n}"), NOW)
    assert refusal(table, instance(name="i3")) == Refusal.OWNER_BYTES
    grown = instance(Version(epoch=NOW, counter=2), "i0", address="192.0.2.1:80")
    assert refusal(table, grown) == Refusal.OWNER_BYTES
    withdrawn = instance(Version(epoch=NOW, counter=2), "i0", withdrawn=True)
    assert table.apply(withdrawn, NOW) is not None
    assert table.apply(instance(name="i3", owner=OTHER), NOW) is not None


def test_a_table_has_room_for_a_bounded_number_of_bytes_and_for_what_this_peer_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = RecordTable(mine=OWNER.peer_id)
    table.apply(peer(owner=OTHER), NOW)
    monkeypatch.setattr(record_table, "MAX_TOTAL_BYTES", table.payload_bytes)
    assert refusal(table, instance(owner=OTHER)) == Refusal.TOTAL_BYTES
    assert refusal(table, peer(owner=OWNERS[2])) == Refusal.TOTAL_BYTES
    assert table.apply(peer(), NOW) is not None
    table.forget(OTHER.peer_id)
    table.forget(OWNER.peer_id)
    assert table.apply(peer(owner=OWNERS[2]), NOW) is not None


def test_a_full_view_refuses_strangers_until_somebody_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record_table, "MAX_OWNERS", 1)
    table = RecordTable(mine=OWNERS[2].peer_id)
    table.apply(peer(), NOW)
    assert refusal(table, peer(owner=OTHER)) == Refusal.PEERS
    assert table.apply(peer(owner=OWNERS[2]), NOW) is not None
    table.forget(OWNERS[2].peer_id)
    table.forget(OWNER.peer_id)
    assert table.apply(peer(owner=OTHER), NOW) is not None


def test_a_forgotten_owner_leaves_nothing_behind() -> None:
    table = RecordTable()
    table.apply(peer(), NOW)
    table.apply(instance(), NOW)
    table.forget(OWNER.peer_id)
    assert table.peer(OWNER.peer_id) is None
    assert list(table.of(OWNER.peer_id)) == []
    assert list(table.owners()) == []
    assert (table.payload_bytes, len(table)) == (0, 0)
    assert table.apply(peer(), NOW) is not None
