import pytest

from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.testing import empty_view
from overlay.view import InstanceView, View
from proxy.selection import Candidate
from proxy.upstreams import FAILED_FOR_S, SERVICE_TIME_ALPHA, Upstreams

OWNER = Identity.from_seed(b"o" * 32)
NAME = ServiceName("hello")


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
    upstreams = Upstreams(view)
    view.set_load(OWNER.peer_id, {InstanceId("i1"): 2})
    assert candidate(upstreams, view).in_flight == 2
    for _ in range(3):
        upstreams.begin(only(view))
    assert candidate(upstreams, view).in_flight == 3


def test_the_service_time_is_the_first_sample_then_smoothed(view: View) -> None:
    upstreams = Upstreams(view)
    for sample, expected in ((0.1, 0.1), (0.2, 0.1 + SERVICE_TIME_ALPHA * 0.1)):
        upstreams.begin(only(view))
        upstreams.end(only(view), sample)
        assert candidate(upstreams, view).service_time_s == pytest.approx(expected)


def test_an_unanswered_request_is_no_sample(view: View) -> None:
    upstreams = Upstreams(view)
    upstreams.begin(only(view))
    upstreams.end(only(view), None)
    assert candidate(upstreams, view).service_time_s == 0.0
    assert candidate(upstreams, view).in_flight == 0


def test_a_failed_instance_is_left_alone_for_a_while(view: View) -> None:
    upstreams = Upstreams(view)
    upstreams.failed(only(view), 10.0)
    assert candidate(upstreams, view, 10.0 + FAILED_FOR_S - 0.001).failed
    assert not candidate(upstreams, view, 10.0 + FAILED_FOR_S).failed


def test_what_is_gone_is_forgotten_once_nothing_is_in_flight(view: View) -> None:
    upstreams, instance = Upstreams(view), only(view)
    upstreams.begin(instance)
    say(view, 2, withdrawn=True)
    upstreams.prune()
    assert len(upstreams._stats) == 1
    upstreams.end(instance, 0.1)
    upstreams.prune()
    assert upstreams._stats == {}
