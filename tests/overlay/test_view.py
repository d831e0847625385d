from hypothesis import given
from hypothesis import strategies as st

from overlay import records
from overlay.identity import Identity
from overlay.membership import SUSPICION_S, MemberState
from overlay.names import InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.view import View

NOW = 1_700_000_000.0
HELLO = ServiceName("hello")
ME, NEAR, FAR = (Identity.from_seed(bytes([n]) * 32) for n in range(3))


def view_of(*owners: Identity, machine: str = "here") -> View:
    """A view in which this peer and all `owners` are members."""
    view = View(ME.peer_id, machine)
    for owner in (ME, *owners):
        take_peer(view, owner)
        if owner is not ME:
            view.membership.heard(owner.peer_id, 0.0)
    view.touch()
    return view


def take_peer(
    view: View, owner: Identity, *, epoch: float = NOW, machine: str = "", role: Role | None = None
) -> None:
    record = PeerRecord(
        version=Version(epoch=epoch, counter=0),
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
) -> None:
    record = InstanceRecord(
        version=Version(epoch=epoch, counter=counter),
        id=InstanceId(instance),
        service=HELLO,
        revision=1,
        state=InstanceState.READY,
        concurrency=5,
        withdrawn=withdrawn,
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
    view.membership.cut(NEAR.peer_id, 0.0)
    view.touch()
    assert {i.record.id: i.suspect for i in view.instances(HELLO)} == {"near": True, "far": False}
    view.membership.tick(SUSPICION_S)
    view.touch()
    assert ids(view) == {"far"}


def test_a_peer_that_left_takes_its_instances_along() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    view.membership.left(NEAR.peer_id, 1.0)
    view.touch()
    assert ids(view) == set()


def test_instances_of_an_owners_earlier_life_are_gone_when_it_comes_back() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR, instance="old", counter=7)
    take_peer(view, NEAR, epoch=NOW + 1)
    assert ids(view) == set()
    take_instance(view, NEAR, instance="new", epoch=NOW + 1)
    assert ids(view) == {"new"}


def test_an_owner_may_start_any_number_of_instances_one_after_the_other() -> None:
    view = view_of(NEAR)
    for number in range(1, 2 * records.MAX_RECORDS_PER_OWNER, 2):
        take_instance(view, NEAR, instance=f"i{number}", counter=number)
        take_instance(view, NEAR, instance=f"i{number}", counter=number + 1, withdrawn=True)
    take_instance(view, NEAR, instance="last", counter=10_000)
    assert ids(view) == {"last"}


def test_local_is_what_shares_the_machine_and_it_comes_first() -> None:
    view = view_of()
    take_peer(view, FAR)
    take_peer(view, NEAR, machine="here")
    for peer in (NEAR, FAR):
        view.membership.heard(peer.peer_id, 0.0)
    for probe in view.membership.tick(0.0)[0]:
        view.membership.acked(probe.peer, probe.sequence, 0.2 if probe.peer == NEAR.peer_id else 0)
    take_instance(view, NEAR, instance="near")
    take_instance(view, FAR, instance="far")
    assert [p.peer_id for p in view.peers()] == [NEAR.peer_id, FAR.peer_id]
    assert {i.record.id: i.local for i in view.instances(HELLO)} == {"near": True, "far": False}


def test_peers_are_listed_nearest_first_the_unmeasured_last_and_by_role() -> None:
    third = Identity.from_seed(b"3" * 32)
    view = view_of(FAR, NEAR)
    rtts = {NEAR.peer_id: 0.01, FAR.peer_id: 0.1}
    for probe in view.membership.tick(0.0)[0]:
        view.membership.acked(probe.peer, probe.sequence, rtts[probe.peer])
    take_peer(view, third, role=Role.REGISTRY)
    view.membership.heard(third.peer_id, 0.0)
    assert [p.peer_id for p in view.peers()] == [NEAR.peer_id, FAR.peer_id, third.peer_id]
    assert [p.peer_id for p in view.peers(Role.REGISTRY)] == [third.peer_id]
    assert [p.rtt_s for p in view.peers()] == [0.01, 0.1, None]


def test_load_is_kept_for_instances_that_there_are_and_goes_with_them() -> None:
    view = view_of(NEAR)
    take_instance(view, NEAR)
    (instance,) = view.instances(HELLO)
    view.set_load(NEAR.peer_id, {InstanceId("i1"): 3, InstanceId("invented"): 9})
    assert view.in_flight(instance) == 3
    assert len(view._load) == 1
    take_instance(view, NEAR, counter=2, withdrawn=True)
    assert view._load == {}


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
    assert {s.signer for s in view.member_records()} == {ME.peer_id, NEAR.peer_id}


@given(st.lists(st.sampled_from(["take", "withdraw", "cut", "hear", "leave", "wait"]), max_size=20))
def test_the_cached_lists_always_say_what_fresh_ones_would(script: list[str]) -> None:
    view = view_of(NEAR)
    for counter, step in enumerate(script, start=1):
        now, changes = float(counter), []
        match step:
            case "take" | "withdraw":
                take_instance(view, NEAR, counter=counter, withdrawn=step == "withdraw")
            case "cut":
                changes = view.membership.cut(NEAR.peer_id, now)
            case "hear":
                changes = view.membership.heard(NEAR.peer_id, now)
            case "leave":
                changes = view.membership.left(NEAR.peer_id, now)
            case _:
                changes = view.membership.tick(now)[1]
        if changes:
            view.touch()
        cached = view.instances(HELLO)
        view.touch()
        assert view.instances(HELLO) == cached
