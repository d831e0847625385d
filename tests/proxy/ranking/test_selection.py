from collections import Counter
from random import Random

import pytest

from overlay.balancing import Balancing
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, Version
from overlay.view import InstanceView
from proxy.ranking.limits import RttLimits
from proxy.ranking.policies import Nearest
from proxy.ranking.policies.latency import KNOWN_AFTER
from proxy.ranking.selection import (
    Candidate,
    Group,
    Upstream,
    expected_latency_s,
    feasible,
    has_room,
    tiers,
)
from proxy.ranking.selection import rtt_s as rtt_to


def candidate(
    name: str = "i1",
    *,
    rtt_s: float | None = 0.01,
    local: bool = False,
    suspect: bool = False,
    state: InstanceState = InstanceState.READY,
    revision: int = 1,
    concurrency: int = 5,
    in_flight: int = 0,
    service_time_s: float = 0.0,
    failed: bool = False,
) -> Candidate:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=1),
        id=InstanceId(name),
        service=ServiceName("hello"),
        revision=revision,
        state=state,
        concurrency=concurrency,
    )
    view = InstanceView(PeerId(f"owner-of-{name}"), record, rtt_s, local, suspect)
    return Candidate(view, in_flight, service_time_s, failed)


def usable(*candidates: Candidate, hard_rtt_s: float | None = None) -> list[str]:
    found = feasible(candidates, revision=1, limits=RttLimits(None, hard_rtt_s))
    return [c.instance.record.id for c in found]


def shares(upstreams: list[Upstream], picks: int = 1500) -> Counter[str | None]:
    of_all = group(*upstreams)
    return Counter(picked(of_all.pick(0.0)) for _ in range(picks))


@pytest.mark.parametrize(
    "excluded",
    [
        candidate(state=InstanceState.STARTING),
        candidate(state=InstanceState.DRAINING),
        candidate(revision=2),
        candidate(failed=True),
    ],
)
def test_only_ready_well_instances_of_the_revision_are_feasible(excluded: Candidate) -> None:
    assert usable(excluded, candidate("good")) == ["good"]
    assert usable(excluded) == []


def test_the_hard_limit_excludes_what_is_over_it_or_not_measured_but_nothing_local() -> None:
    found = usable(
        candidate("at", rtt_s=0.02),
        candidate("over", rtt_s=0.0201),
        candidate("unknown", rtt_s=None),
        candidate("local", rtt_s=9.0, local=True),
        hard_rtt_s=0.02,
    )
    assert found == ["at", "local"]


def test_a_suspect_is_used_only_where_there_is_no_other() -> None:
    assert usable(candidate("bad", suspect=True), candidate("good")) == ["good"]
    assert usable(candidate("bad", suspect=True)) == ["bad"]


def upstream(
    name: str = "i1",
    *,
    rtt_s: float | None = 0.01,
    local: bool = False,
    suspect: bool = False,
    concurrency: int = 5,
    in_flight: int = 0,
    service_time_s: float = 0.0,
    failed: bool = False,
) -> Upstream:
    instance = candidate(
        name, rtt_s=rtt_s, local=local, suspect=suspect, concurrency=concurrency
    ).instance
    made = Upstream(name, instance=instance, elsewhere=lambda _: 0, distance_s=rtt_to(instance))
    made.in_flight, made.failed_until = in_flight, 9.0 if failed else 0.0
    for number in range(KNOWN_AFTER):
        made.latency.observe(service_time_s, number - KNOWN_AFTER + 1.0)
    return made


def group(*upstreams: Upstream, soft_s: float | None = None) -> Group:
    near, far, suspects = tiers(upstreams, revision=1, limits=RttLimits(soft_s, None))
    instances = [u.instance for u in upstreams]
    return Group(instances, upstreams, 1, Nearest(Random(7)), Balancing(), near, far, suspects)


def picked(found: Upstream | None) -> str | None:
    return None if found is None else found.name


def test_within_the_soft_limit_comes_before_over_it_as_long_as_there_is_room() -> None:
    near, far = upstream("near", rtt_s=0.004), upstream("far", rtt_s=0.006)
    assert {picked(group(near, far, soft_s=0.005).pick(0.0)) for _ in range(20)} == {"near"}
    full = upstream("near", rtt_s=0.004, concurrency=1, in_flight=1)
    assert picked(group(full, far, soft_s=0.005).pick(0.0)) == "far"


def test_where_all_are_over_the_soft_limit_all_serve() -> None:
    assert picked(group(upstream("far", rtt_s=0.1), soft_s=0.005).pick(0.0)) == "far"


def test_where_all_are_full_none_is_picked_but_the_least_busy_is_known() -> None:
    one = upstream("one", concurrency=1, in_flight=3, service_time_s=0.1)
    other = upstream("other", concurrency=1, in_flight=2, service_time_s=0.1)
    assert group(one, other).pick(0.0) is None
    assert group(one, other).least_busy(0.0) is other


def test_a_suspects_instance_is_picked_where_all_others_failed_and_not_where_they_are_full() -> (
    None
):
    suspect = upstream("suspect", suspect=True)
    assert picked(group(upstream("good"), suspect).pick(0.0)) == "good"
    assert picked(group(upstream("bad", failed=True), suspect).pick(0.0)) == "suspect"
    full = upstream("full", concurrency=1, in_flight=1)
    assert group(full, suspect).pick(0.0) is None
    assert group(full, suspect).least_busy(0.0) is full


def test_one_that_failed_is_not_picked_even_where_there_is_no_other() -> None:
    failed = group(upstream(failed=True))
    assert failed.pick(0.0) is None
    assert failed.least_busy(0.0) is None
    assert picked(failed.pick(9.0)) == "i1"


def test_nothing_is_picked_of_nothing() -> None:
    assert group().pick(0.0) is None
    assert group().least_busy(0.0) is None


def test_a_candidate_has_room_below_its_concurrency() -> None:
    assert has_room(candidate(concurrency=2, in_flight=1))
    assert not has_room(candidate(concurrency=2, in_flight=2))


def test_the_expected_latency_joins_distance_and_load() -> None:
    busy = candidate(rtt_s=0.01, service_time_s=0.02, in_flight=3)
    assert expected_latency_s(busy) == pytest.approx(0.01 + 0.02 * 4)
    assert expected_latency_s(candidate(local=True, rtt_s=0.5)) == 0.0


@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_equal_instances_get_equal_shares(count: int) -> None:
    counted = shares([upstream(f"i{n}") for n in range(count)])
    for share in counted.values():
        assert share == pytest.approx(1500 / count, rel=0.10)


def test_three_equal_instances_share_evenly_while_requests_are_under_way() -> None:
    upstreams = [upstream(f"i{n}", concurrency=1000) for n in range(3)]
    of_three = group(*upstreams)
    for _ in range(1500):
        chosen = of_three.pick(0.0)
        assert chosen is not None
        chosen.in_flight += 1
    assert all(u.in_flight == pytest.approx(500, rel=0.05) for u in upstreams)


def test_the_nearest_is_preferred() -> None:
    assert shares([upstream("far", rtt_s=0.1), upstream("near", rtt_s=0.01)]) == {"near": 1500}


def test_a_machines_own_instance_is_preferred() -> None:
    assert shares([upstream("near", rtt_s=0.01), upstream("own", local=True)]) == {"own": 1500}


def test_a_busy_nearest_gives_way_to_a_free_one_further_off() -> None:
    busy = upstream("near", rtt_s=0.01, service_time_s=0.05, in_flight=4)
    free = upstream("far", rtt_s=0.03, service_time_s=0.05)
    assert shares([busy, free]) == {"far": 1500}


def test_an_unmeasured_instance_is_the_last_choice() -> None:
    assert shares([upstream("new", rtt_s=None), upstream("far", rtt_s=0.4)]) == {"far": 1500}


def test_what_a_request_found_unusable_is_not_picked_for_it_again() -> None:
    one, other, suspect = upstream("one"), upstream("other"), upstream("suspect", suspect=True)
    of_all = group(one, other, suspect)
    excluded = {one.instance.key}
    assert {picked(of_all.pick(0.0, None, excluded)) for _ in range(20)} == {"other"}
    assert of_all.least_busy(0.0, excluded) is other
    excluded.add(other.instance.key)
    assert of_all.pick(0.0, None, excluded) is suspect
    assert of_all.least_busy(0.0, excluded) is suspect
