from random import Random

from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Version, sign_record
from overlay.spec import ServiceSpec
from overlay.testing import empty_view, meet
from overlay.view import InstanceView, View
from proxy.guard.ejecting import Ejector
from proxy.guard.outliers import BASE_S, LEAST_ANSWERS
from proxy.ranking.routing_table import RoutingTable
from proxy.ranking.upstreams import Upstreams

NOW = 1_700_000_000.0
HELLO = ServiceName("hello")
ME, OWNER = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
SPEC = ServiceSpec(process="serve", eject_after=3)


def view_with(instances: int) -> View:
    view = empty_view(ME, "here")
    for counter, peer in enumerate((ME, OWNER)):
        version = Version(epoch=NOW, counter=counter)
        record = PeerRecord(version=version, role=Role.ALLOCATOR, host="h")
        view.apply(sign_record(peer, record), NOW)
    meet(view, OWNER.peer_id, NOW)
    for number in range(instances):
        add(view, number)
    return view


def add(view: View, number: int, *, withdrawn: bool = False) -> None:
    record = InstanceRecord(
        version=Version(epoch=NOW, counter=100 + number + 100 * withdrawn),
        id=InstanceId(f"i{number}"),
        service=HELLO,
        revision=1,
        state=InstanceState.READY,
        concurrency=5,
        withdrawn=withdrawn,
    )
    view.apply(sign_record(OWNER, record), NOW)


class Lab:
    """An ejector, the clock that it goes by, and what it told."""

    def __init__(self, instances: int) -> None:
        self.now = 1000.0
        self.view = view_with(instances)
        self.upstreams = Upstreams(self.view, Random(1), RoutingTable())
        self.told: list[ServiceName] = []
        self.ejector = Ejector(self.view, self.upstreams, lambda: self.now, self.told.append)

    @property
    def instances(self) -> tuple[InstanceView, ...]:
        return self.view.instances(HELLO)

    def left_alone(self) -> list[str]:
        known = self.upstreams.candidates(self.instances, self.now)
        return [c.instance.record.id for c in known if c.failed]

    def fail(self, number: int, times: int = 3) -> None:
        for _ in range(times):
            self.ejector.answered(self.instances[number], SPEC, bad=True)


def test_failures_in_a_row_eject_an_instance_for_a_while_and_then_it_is_tried_anew() -> None:
    lab = Lab(4)
    lab.fail(0, 2)
    lab.ejector.answered(lab.instances[0], SPEC, bad=False)
    lab.fail(0, 2)
    assert lab.left_alone() == []
    lab.fail(0, 1)
    assert (lab.left_alone(), lab.told) == (["i0"], [HELLO])
    lab.now += BASE_S
    assert lab.left_alone() == []
    lab.fail(0, 2)
    assert lab.left_alone() == []
    lab.fail(0, 1)
    lab.now += BASE_S
    assert lab.left_alone() == ["i0"], "the second time lasts longer"


def test_never_more_than_half_are_ejected_and_never_the_last() -> None:
    lab = Lab(4)
    for number in range(4):
        lab.fail(number)
    assert lab.left_alone() == ["i0", "i1"]
    alone = Lab(1)
    alone.fail(0, 100)
    assert alone.left_alone() == []


def test_one_that_fails_more_often_than_all_others_is_ejected_at_the_end_of_a_period() -> None:
    lab = Lab(6)
    for number, instance in enumerate(lab.instances):
        for answer in range(LEAST_ANSWERS):
            bad = number == 5 and bool(answer % 2)
            lab.ejector.answered(instance, SPEC, bad=bad)
    assert lab.left_alone() == []
    lab.ejector.begin_period()
    assert lab.left_alone() == ["i5"]
    lab.now += BASE_S
    lab.ejector.begin_period()
    assert lab.left_alone() == [], "what was counted before is forgotten"


def test_a_service_that_wants_no_ejection_gets_none() -> None:
    lab, spec = Lab(2), ServiceSpec(process="serve", eject_after=0)
    for _ in range(100):
        lab.ejector.answered(lab.instances[0], spec, bad=True)
    assert lab.left_alone() == []


def test_instances_that_are_gone_are_forgotten() -> None:
    lab = Lab(2)
    lab.fail(0)
    add(lab.view, 0, withdrawn=True)
    lab.ejector.begin_period()
    assert lab.ejector._outcomes == {}
