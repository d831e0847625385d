import random
from collections.abc import Iterator

import pytest

from overlay.compaction import WITHDRAWN_PER_ROUND, Compaction
from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.record_table import MAX_RECORDS_PER_OWNER, RecordTable
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Version,
    sign_record,
)
from overlay.signed import Signed

NOW = 1_700_000_000.0
OWNER = Identity.from_seed(bytes(32))


class Owner:
    """Starts and withdraws instances, and signs what an owner signs about it."""

    def __init__(self) -> None:
        self.live: list[str] = []
        self._compaction = Compaction()
        self._counter = 0

    def start(self, name: str) -> Iterator[Signed]:
        self.live.append(name)
        yield self._instance(name)

    def withdraw(self, name: str) -> Iterator[Signed]:
        self.live.remove(name)
        yield self._instance(name, withdrawn=True)
        floor = self._compaction.withdrew(self._counter + 1)
        if floor is not None:
            for live in self.live:
                yield self._instance(live)
            yield self.peer(floor)

    def peer(self, floor: int) -> Signed:
        record = PeerRecord(version=self._version(), role=Role.ALLOCATOR, host="host", floor=floor)
        return sign_record(OWNER, record)

    def _instance(self, name: str, *, withdrawn: bool = False) -> Signed:
        record = InstanceRecord(
            version=self._version(),
            id=InstanceId(name),
            service=ServiceName("hello"),
            revision=1,
            state=InstanceState.READY,
            concurrency=1,
            withdrawn=withdrawn,
        )
        return sign_record(OWNER, record)

    def _version(self) -> Version:
        self._counter += 1
        return Version(epoch=NOW, counter=self._counter)


def shown(table: RecordTable) -> set[str]:
    records = (held.record for held in table.of(OWNER.peer_id))
    return {r.id for r in records if isinstance(r, InstanceRecord) and not r.withdrawn}


def test_an_owner_may_start_any_number_of_instances_one_after_the_other() -> None:
    owner, table, most = Owner(), RecordTable(), 0
    for signed in owner.start("stays"):
        table.apply(signed, NOW)
    for number in range(2 * MAX_RECORDS_PER_OWNER):
        for signed in [*owner.start(f"i{number}"), *owner.withdraw(f"i{number}")]:
            assert table.apply(signed, NOW) is not None
        most = max(most, len(table))
    assert shown(table) == {"stays"}
    assert most <= 2 * WITHDRAWN_PER_ROUND + 2


@pytest.mark.parametrize("seed", range(10))
def test_nobody_misses_a_live_instance_even_if_a_rounds_records_come_in_any_order(
    seed: int,
) -> None:
    rng = random.Random(seed)
    owner, table = Owner(), RecordTable()
    for signed in owner.start("stays"):
        table.apply(signed, NOW)
    on_their_way: list[Signed] = []
    withdrawn = 0
    for number in range(4 * WITHDRAWN_PER_ROUND):
        on_their_way += [*owner.start(f"i{number}"), *owner.withdraw(f"i{number}")]
        withdrawn += 1
        if withdrawn == WITHDRAWN_PER_ROUND or rng.random() < 0.02:
            rng.shuffle(on_their_way)
            for signed in on_their_way:
                table.apply(signed, NOW)
                assert "stays" in shown(table)
            on_their_way.clear()
            withdrawn = 0
