import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.coordinates import Coordinate
from overlay.digest import BUCKETS
from overlay.identity import Identity
from overlay.membership import MemberState
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.testing import bury, cut, depart, empty_view, measure, meet, pass_time
from overlay.view import LOAD_FRESH_S, RTT_FRESH_S, View

NOW = 1_700_000_000.0
HELLO = ServiceName("hello")
ME, NEAR, FAR = (Identity.from_seed(bytes([n]) * 32) for n in range(3))


def view_of(*owners: Identity, machine: str = "here") -> View:
    """A view in which this peer and all `owners` are members."""
    view = empty_view(ME, machine)
    for owner in (ME, *owners):
        take_peer(view, owner)
        if owner is not ME:
            meet(view, owner.peer_id, NOW)
    return view


def take_peer(
    view: View,
    owner: Identity,
    *,
    epoch: float = NOW,
    counter: int = 0,
    floor: int = 0,
    machine: str = "",
    role: Role | None = None,
) -> None:
    record = PeerRecord(
        version=Version(epoch=epoch, counter=counter),
        floor=floor,
        role=role or Role.ALLOCATOR,
        host=f"host-of-{owner.peer_id[-4:]}",
        machine=machine or f"machine-of-{owner.peer_id}",
    )
    view.apply(sign_record(owner, record), NOW)


def take_instance(
    view: View,
    owner: Identity,
    *,
    instance: str = "i1",
    counter: int = 1,
    epoch: float = NOW,
    withdrawn: bool = False,
    healthy: bool = True,
    service: ServiceName = HELLO,
) -> None:
    record = InstanceRecord(
        version=Version(epoch=epoch, counter=counter),
        id=InstanceId(instance),
        service=service,
        revision=1,
        state=InstanceState.READY,
        concurrency=5,
        withdrawn=withdrawn,
        healthy=healthy,
    )
    view.apply(sign_record(owner, record), NOW)


def ids(view: View) -> set[str]:
    return {i.record.id for i in view.instances(HELLO)}


def test_an_instance_of_a_member_is_in_the_view_and_gone_when_withdrawn() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    assert ids(view) == {"i1"}
    take_instance(view, NEAR, counter=2, withdrawn=True)
    assert ids(view) == set()
    take_instance(view, NEAR, counter=1)
    assert ids(view) == set()


def test_an_instance_that_changes_its_service_is_in_the_old_one_no_more() -> None:
    view, other = view_of(NEAR), ServiceName("other")
    take_instance(view, NEAR, counter=1)
    take_instance(view, NEAR, counter=2, service=other)
    assert (view.instances(HELLO), len(view.instances(other))) == ((), 1)
    take_instance(view, NEAR, counter=3, withdrawn=True)
    assert list(view.all_instances()) == []


def test_an_instance_that_fails_its_health_checks_is_suspect_until_it_passes_them() -> None:
    view = view_of(NEAR)
    for counter, healthy in enumerate((True, False, True), 1):
        take_instance(view, NEAR, counter=counter, healthy=healthy)
        assert [i.suspect for i in view.instances(HELLO)] == [not healthy]


def test_own_instances_need_no_membership() -> None:
    view = view_of()
    take_instance(view, ME)
    assert ids(view) == {"i1"}


def test_an_instance_of_a_peer_that_was_never_met_is_not_shown() -> None:
    view = view_of()
    take_peer(view, NEAR)
    take_instance(view, NEAR)
    assert ids(view) == set()


def test_a_dead_owners_instances_are_gone_in_that_instant() -> None:
    view = view_of(NEAR, FAR)
    take_instance(view, NEAR, instance="near")
    take_instance(view, FAR, instance="far")
    cut(view, NEAR.peer_id)
    assert {i.record.id: i.suspect for i in view.instances(HELLO)} == {"near": True, "far": False}
    bury(view, NEAR.peer_id)
    assert ids(view) == {"far"}
    assert NEAR.peer_id not in view.members()


def test_a_peer_that_left_takes_its_instances_along() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    depart(view, NEAR, NOW)
    assert ids(view) == set()


def test_instances_of_an_owners_earlier_life_are_gone_when_it_comes_back() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR, instance="old", counter=7)
    take_peer(view, NEAR, epoch=NOW + 1)
    assert ids(view) == set()
    take_instance(view, NEAR, instance="new", epoch=NOW + 1)
    assert ids(view) == {"new"}


def test_what_an_owner_declares_void_leaves_the_lists_and_the_summary() -> None:
    view, newcomer = view_of(NEAR), view_of(NEAR)
    take_instance(view, NEAR, instance="lost", counter=1)
    take_instance(view, NEAR, instance="gone", counter=2)
    take_instance(view, NEAR, instance="gone", counter=3, withdrawn=True)
    take_instance(view, NEAR, instance="live", counter=4)
    assert ids(view) == {"lost", "live"}
    for told in (view, newcomer):
        take_peer(told, NEAR, counter=5, floor=4)
    take_instance(newcomer, NEAR, instance="live", counter=4)
    assert ids(view) == ids(newcomer) == {"live"}
    assert view.digest.summary() == newcomer.digest.summary()


def test_a_new_life_of_an_owner_leaves_nothing_of_the_old_one_in_the_summary() -> None:
    view, newcomer = view_of(NEAR), view_of()
    take_instance(view, NEAR, instance="old", counter=7)
    meet(newcomer, NEAR.peer_id, NOW + 1)
    for told in (view, newcomer):
        take_peer(told, NEAR, epoch=NOW + 1)
        told.settle(NEAR.peer_id)
    assert view.digest.summary() == newcomer.digest.summary()


def test_local_is_what_shares_the_machine_and_it_comes_first() -> None:
    view = view_of()
    take_peer(view, FAR)
    take_peer(view, NEAR, machine="here")
    for peer, rtt_s in ((NEAR, 0.2), (FAR, 0.0)):
        meet(view, peer.peer_id, NOW)
        measure(view, peer.peer_id, rtt_s)
    take_instance(view, NEAR, instance="near")
    take_instance(view, FAR, instance="far")
    assert [p.peer_id for p in view.peers()] == [NEAR.peer_id, FAR.peer_id]
    assert {i.record.id: i.local for i in view.instances(HELLO)} == {"near": True, "far": False}


def test_peers_are_listed_nearest_first_the_unmeasured_last_and_by_role() -> None:
    third = Identity.from_seed(b"3" * 32)
    view = view_of(FAR, NEAR)
    measure(view, NEAR.peer_id, 0.01)
    measure(view, FAR.peer_id, 0.1)
    take_peer(view, third, role=Role.REGISTRY)
    meet(view, third.peer_id, NOW)
    assert [p.peer_id for p in view.peers()] == [NEAR.peer_id, FAR.peer_id, third.peer_id]
    assert [p.peer_id for p in view.peers(Role.REGISTRY)] == [third.peer_id]
    assert [p.rtt_s for p in view.peers()] == [pytest.approx(0.01), pytest.approx(0.1), None]


def test_load_is_kept_for_instances_that_there_are_and_goes_with_them() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    (instance,) = view.instances(HELLO)
    view.set_load(NEAR.peer_id, {InstanceId("i1"): 3, InstanceId("invented"): 9})
    assert view.in_flight(instance) == 3
    assert len(view._load[NEAR.peer_id]) == 1
    take_instance(view, NEAR, counter=2, withdrawn=True)
    assert view._load == {NEAR.peer_id: {}}


def test_load_that_was_this_peers_own_goes_with_it() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    (instance,) = view.instances(HELLO)
    view.served_there(instance, 1, 0)
    assert view.in_flight(instance) == 0
    view.set_load(NEAR.peer_id, {InstanceId("i1"): 3})
    view.served_there(instance, 2, 1)
    assert view.in_flight(instance) == 3
    view.served_there(instance, 3, 2)
    assert view.in_flight(instance) == 2


def test_load_of_long_ago_is_no_load() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    (instance,) = view.instances(HELLO)
    view.set_load(NEAR.peer_id, {InstanceId("i1"): 3})
    pass_time(view, LOAD_FRESH_S + 1)
    assert view.in_flight(instance) == 0


def test_what_is_forgotten_leaves_nothing() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    view.set_load(NEAR.peer_id, {InstanceId("i1"): 3})
    view.forget(NEAR.peer_id)
    assert view.known() == [ME.peer_id]
    assert view.records_of(NEAR.peer_id) == []
    assert view._load == {}
    assert view.membership.state(NEAR.peer_id) is MemberState.DEAD


def test_only_members_records_are_passed_on() -> None:
    view = view_of(NEAR)
    take_peer(view, FAR)
    take_instance(view, NEAR)
    near = NEAR.peer_id
    assert digested(view) == {(ME.peer_id, "peer"), (near, "peer"), (near, "instance")}
    bury(view, NEAR.peer_id)
    assert digested(view) == {(ME.peer_id, "peer")}
    meet(view, NEAR.peer_id, NOW + 1)
    take_peer(view, NEAR, epoch=NOW + 1)
    assert (NEAR.peer_id, "peer") in digested(view)


def digested(view: View) -> set[tuple[PeerId, str]]:
    return {(key[0], key[1]) for n in range(BUCKETS) for key, _ in view.digest.items(n)}


@given(st.lists(st.sampled_from(["take", "withdraw", "cut", "meet", "leave", "wait"]), max_size=20))
def test_the_cached_lists_always_say_what_fresh_ones_would(script: list[str]) -> None:
    view = view_of(NEAR)
    for counter, step in enumerate(script, start=1):
        match step:
            case "take" | "withdraw":
                take_instance(view, NEAR, counter=counter, withdrawn=step == "withdraw")
            case "cut":
                cut(view, NEAR.peer_id)
            case "meet":
                meet(view, NEAR.peer_id, NOW + counter)
            case "leave":
                depart(view, NEAR, NOW + counter)
            case _:
                pass_time(view, 1.0)
        cached = view.instances(HELLO)
        view.touch()
        assert view.instances(HELLO) == cached


def test_a_member_is_found_by_its_certificate_while_it_is_one() -> None:
    view = view_of(NEAR)
    record = view.peer(NEAR.peer_id)
    assert record is not None
    later = Version(epoch=NOW, counter=5)
    signed = sign_record(NEAR, record.model_copy(update={"certificate": "ab", "version": later}))
    view.apply(signed, NOW)
    assert view.by_certificate("ab") == NEAR.peer_id
    assert view.by_certificate("") is None
    bury(view, NEAR.peer_id)
    assert view.by_certificate("ab") is None


def test_a_fresh_measurement_beats_the_estimate_and_an_old_one_gives_way_to_it() -> None:
    view = view_of(NEAR)
    assert view.distance(NEAR.peer_id) is None
    measure(view, NEAR.peer_id, 0.05)
    place = Coordinate((0.03, *[0.0] * 7), error=0.1, adjustment=0.0, height=0.00001)
    view.membership.coordinates.observe(NEAR.peer_id, place, 0.05)
    fresh = view.distance(NEAR.peer_id)
    assert fresh is not None
    assert fresh.measured
    assert fresh.rtt_s == pytest.approx(0.05)
    pass_time(view, RTT_FRESH_S + 1)
    old = view.distance(NEAR.peer_id)
    assert old is not None
    assert not old.measured
    assert old.error_s > 0
