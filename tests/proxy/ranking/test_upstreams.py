from random import Random

import pytest

from overlay.balancing import Balancing
from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.testing import empty_view
from overlay.view import InstanceView, View
from proxy.ranking.limits import RttLimits
from proxy.ranking.policies import EvenChance
from proxy.ranking.policies.latency import ALPHA
from proxy.ranking.selection import Candidate, Group
from proxy.ranking.upstreams import FAILED_FOR_S, MAX_GROUPS, Upstreams

OWNER = Identity.from_seed(b"o" * 32)
NAME = ServiceName("hello")
NO_LIMITS = RttLimits()


def say(view: View, counter: int, *, withdrawn: bool = False) -> None:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=counter),
        id=InstanceId("i1"),
        service=NAME,
        revision=1,
        state=InstanceState.READY,
        concurrency=5,
        withdrawn=withdrawn,
    )
    view.apply(sign_record(OWNER, record), 1.0)


@pytest.fixture
def view() -> View:
    found = empty_view(OWNER, "here")
    peer = PeerRecord(version=Version(epoch=1.0, counter=0), role=Role.ALLOCATOR, host="h")
    found.apply(sign_record(OWNER, peer), 1.0)
    say(found, 1)
    return found


def only(view: View) -> InstanceView:
    (instance,) = view.instances(NAME)
    return instance


def candidate(upstreams: Upstreams, view: View, now: float = 0.0) -> Candidate:
    (found,) = upstreams.candidates(view.instances(NAME), now)
    return found


def test_in_flight_is_the_larger_of_the_own_count_and_the_owners(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 2})
    assert candidate(upstreams, view).in_flight == 2
    for _ in range(3):
        upstreams.begin(only(view))
    assert candidate(upstreams, view).in_flight == 3


def test_the_service_time_is_the_quickest_of_the_first_then_smoothed(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    now = 0.0
    for sample, expected in (
        (0.2, 0.2),
        (0.1, 0.1),
        (0.2, 0.1),
        (0.2, 0.1),
        (0.2, 0.1 + ALPHA * 0.1),
    ):
        upstreams.begin(only(view))
        now += 1.0
        upstreams.end(only(view), sample, now)
        assert candidate(upstreams, view).service_time_s == pytest.approx(expected)


def test_an_unanswered_request_is_no_sample(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    upstreams.begin(only(view))
    upstreams.end(only(view), None, 0.0)
    assert candidate(upstreams, view).service_time_s == 0.0
    assert candidate(upstreams, view).in_flight == 0


def test_a_failed_instance_is_left_alone_for_a_while(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    upstreams.failed(only(view), 10.0)
    assert candidate(upstreams, view, 10.0 + FAILED_FOR_S - 0.001).failed
    assert not candidate(upstreams, view, 10.0 + FAILED_FOR_S).failed


def test_what_is_gone_is_forgotten_once_nothing_is_in_flight(view: View) -> None:
    upstreams, instance = Upstreams(view, Random(1)), only(view)
    upstreams.begin(instance)
    say(view, 2, withdrawn=True)
    upstreams.prune()
    assert len(upstreams._upstreams) == 1
    upstreams.end(instance, 0.1, 0.0)
    upstreams.prune()
    assert upstreams._upstreams == {}


def group_of(upstreams: Upstreams, limits: RttLimits = NO_LIMITS) -> Group:
    return upstreams.group(NAME, 1, limits)


def test_a_group_is_made_once_for_a_view_and_knows_the_news(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    first = group_of(upstreams)
    assert group_of(upstreams) is first
    say(view, 2)
    again = group_of(upstreams)
    assert again is not first
    assert again.near == first.near
    say(view, 3, withdrawn=True)
    assert group_of(upstreams).pick(0.0) is None


def test_a_policy_goes_on_when_the_view_changes_and_not_when_the_definition_does(
    view: View,
) -> None:
    upstreams = Upstreams(view, Random(1))
    first = upstreams.group(NAME, 1, NO_LIMITS, Balancing(name="round_robin"))
    say(view, 2)
    same = upstreams.group(NAME, 1, NO_LIMITS, Balancing(name="round_robin"))
    assert same.policy is first.policy
    other = upstreams.group(NAME, 1, NO_LIMITS, Balancing(name="random"))
    assert isinstance(other.policy, EvenChance)


def test_weights_go_by_the_machines_name(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    weighted = Balancing(name="weighted_random", weights={"h": 2.5})
    (upstream,) = upstreams.group(NAME, 1, NO_LIMITS, weighted).near
    assert upstream.weight == 2.5
    (upstream,) = group_of(upstreams).near
    assert upstream.weight == 1.0


def test_an_instance_counts_what_others_have_there_for_room(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 5})
    assert group_of(upstreams).pick(0.0) is None
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 4})
    assert group_of(upstreams).pick(0.0) is not None


def test_an_instance_that_was_full_of_own_requests_has_room_when_one_ends(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    for _ in range(5):
        upstreams.begin(only(view))
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 5})
    upstreams.end(only(view), 0.1, 0.0)
    assert group_of(upstreams).pick(0.0) is not None
    assert candidate(upstreams, view).in_flight == 4


def test_what_others_have_there_stays_when_an_own_request_ends(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    for _ in range(5):
        upstreams.begin(only(view))
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 6})
    upstreams.end(only(view), 0.1, 0.0)
    assert group_of(upstreams).pick(0.0) is None
    assert candidate(upstreams, view).in_flight == 6


def test_groups_are_bounded_and_go_with_their_instances(view: View) -> None:
    upstreams = Upstreams(view, Random(1))
    for n in range(MAX_GROUPS + 10):
        group_of(upstreams, RttLimits(n + 1.0))
    assert len(upstreams._groups) == MAX_GROUPS
    say(view, 2, withdrawn=True)
    upstreams.prune()
    assert upstreams._groups == {}
    assert upstreams._upstreams == {}
