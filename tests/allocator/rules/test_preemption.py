from hypothesis import given
from hypothesis import strategies as st

from allocator.rules.admission import Admitted, Ledger, Limits
from allocator.rules.preemption import Reservation, preempted
from overlay.names import InstanceId, PeerId
from overlay.records import Room
from overlay.spec import ServiceSpec

CORES = 6
OWNERS = tuple(map(PeerId, "abc"))


def one(author: str, cpu: int = 1000, *, preemptible: bool = True, memory: int = 0) -> Reservation:
    return Reservation(PeerId(author), cpu, memory, preemptible)


def held(*ones: Reservation) -> dict[InstanceId, Reservation]:
    return {InstanceId(str(at)): one for at, one in enumerate(ones)}


def room(cpu: int = 0, memory: int = 0, instances: int = 0) -> Room:
    return Room(cpu_millicores=cpu, memory_mib=memory, instances=instances)


def test_nobody_gives_way_where_there_is_room() -> None:
    assert preempted(held(one("a")), room(1000, 0, 1), one("b")) == []


def test_the_youngest_of_who_has_most_gives_way_to_who_is_not_preemptible() -> None:
    workers = held(one("a"), one("b"), one("b"), one("a", preemptible=False))
    service = one("c", preemptible=False)
    assert preempted(workers, room(), service) == ["2"]
    assert preempted(workers, room(), one("a", 3000, preemptible=False)) is not None
    assert preempted(workers, room(), one("a", 4000, preemptible=False)) is None


def test_only_those_that_are_needed_go() -> None:
    workers = held(one("a", 0, memory=100), one("a", 1000, memory=10))
    needs_memory = one("b", 0, memory=100, preemptible=False)
    assert preempted(workers, room(), needs_memory) == ["0"]


def test_one_preemptible_instance_takes_from_another_only_up_to_an_even_share() -> None:
    assert preempted(held(one("a"), one("a")), room(), one("b")) == ["1"]
    assert preempted(held(one("a"), one("b")), room(), one("b")) is None
    assert preempted(held(one("a"), one("b")), room(), one("c")) is None
    assert preempted(held(one("a"), one("a"), one("a")), room(), one("a")) is None


@given(st.lists(st.sampled_from(OWNERS), max_size=60))
def test_owners_that_ask_again_and_again_come_to_even_shares(asks: list[PeerId]) -> None:
    ledger = Ledger(Limits(CORES * 1000, 0, 100))
    spec = ServiceSpec(process="w", cpu_millicores=1000, preempt_grace_s=1)
    shares: dict[InstanceId, PeerId] = {}
    for at, owner in enumerate([*asks, *OWNERS * CORES]):
        instance = InstanceId(str(at))
        before = sorted(shares.values())
        admitted = ledger.reserve(instance, owner, spec) == Admitted()
        for gone in ledger.preempted():
            del shares[gone]
        if admitted:
            shares[instance] = owner
        else:
            assert sorted(shares.values()) == before
        assert len(shares) <= CORES
    counts = [list(shares.values()).count(owner) for owner in OWNERS]
    assert counts == [CORES // len(OWNERS)] * len(OWNERS)


@given(
    workers=st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(0, 3000)), max_size=6),
    need=st.integers(0, CORES * 1000),
)
def test_who_is_not_preemptible_has_all_that_preemptible_ones_hold(
    workers: list[tuple[PeerId, int]], need: int
) -> None:
    ledger = Ledger(Limits(CORES * 1000, 0, 100))
    for at, (owner, cpu) in enumerate(workers):
        spec = ServiceSpec(process="w", cpu_millicores=cpu, preempt_grace_s=1)
        ledger.reserve(InstanceId(str(at)), owner, spec)
    ledger.preempted()
    service = ServiceSpec(process="s", cpu_millicores=need)
    assert ledger.room().fits(service)
    assert ledger.reserve(InstanceId("s"), OWNERS[0], service) == Admitted()
    room = ledger.room()
    assert room.cpu_millicores + room.preemptible_millicores == CORES * 1000 - need
    assert not ledger.preempted() or need > 0
