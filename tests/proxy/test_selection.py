from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, Version
from overlay.view import InstanceView
from proxy.limits import RttLimits
from proxy.selection import Candidate, expected_latency_s, feasible, has_room, pick, preferred


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


def shares(candidates: list[Candidate], picks: int = 1500) -> Counter[str]:
    random = Random(7)
    picked = (pick(candidates, random) for _ in range(picks))
    return Counter(c.instance.record.id for c in picked if c is not None)


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


def preferred_names(*candidates: Candidate, soft_s: float | None) -> list[str]:
    found = preferred(candidates, RttLimits(soft_s, None))
    return [c.instance.record.id for c in found]


def test_within_the_soft_limit_comes_before_over_it_as_long_as_there_is_room() -> None:
    near, far = candidate("near", rtt_s=0.004), candidate("far", rtt_s=0.006)
    assert preferred_names(near, far, soft_s=0.005) == ["near"]
    assert preferred_names(near, far, soft_s=None) == ["near", "far"]
    full = candidate("near", rtt_s=0.004, concurrency=1, in_flight=1)
    assert preferred_names(full, far, soft_s=0.005) == ["far"]


def test_where_all_are_over_the_soft_limit_all_serve() -> None:
    assert preferred_names(candidate("far", rtt_s=0.1), soft_s=0.005) == ["far"]


def test_where_all_are_full_none_is_preferred() -> None:
    assert preferred_names(candidate(concurrency=1, in_flight=1), soft_s=None) == []


def test_an_instance_has_room_below_its_concurrency() -> None:
    assert has_room(candidate(concurrency=2, in_flight=1))
    assert not has_room(candidate(concurrency=2, in_flight=2))


def test_the_expected_latency_joins_distance_and_load() -> None:
    busy = candidate(rtt_s=0.01, service_time_s=0.02, in_flight=3)
    assert expected_latency_s(busy) == pytest.approx(0.01 + 0.02 * 4)
    assert expected_latency_s(candidate(local=True, rtt_s=0.5)) == 0.0


def test_nothing_is_picked_of_nothing_and_the_only_one_of_one() -> None:
    random = Random(1)
    only = candidate()
    assert pick([], random) is None
    assert pick([only], random) is only


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_instances_get_equal_shares(count: int) -> None:
    counted = shares([candidate(f"i{n}") for n in range(count)])
    for share in counted.values():
        assert share == pytest.approx(1500 / count, rel=0.10)


def test_three_equal_instances_share_evenly_while_requests_are_under_way() -> None:
    random = Random(3)
    candidates = [candidate(f"i{n}", concurrency=1000) for n in range(3)]
    for _ in range(1500):
        chosen = pick(candidates, random)
        assert chosen is not None
        chosen.in_flight += 1
    assert all(c.in_flight == pytest.approx(500, rel=0.05) for c in candidates)


def test_the_nearest_is_preferred() -> None:
    assert shares([candidate("far", rtt_s=0.1), candidate("near", rtt_s=0.01)]) == {"near": 1500}


def test_a_machines_own_instance_is_preferred() -> None:
    assert shares([candidate("near", rtt_s=0.01), candidate("own", local=True)]) == {"own": 1500}


def test_a_busy_nearest_gives_way_to_a_free_one_further_off() -> None:
    busy = candidate("near", rtt_s=0.01, service_time_s=0.05, in_flight=4)
    free = candidate("far", rtt_s=0.03, service_time_s=0.05)
    assert shares([busy, free]) == {"far": 1500}


def test_an_unmeasured_instance_is_the_last_choice() -> None:
    assert shares([candidate("new", rtt_s=None), candidate("far", rtt_s=0.4)]) == {"far": 1500}


drawn = st.lists(
    st.builds(
        candidate,
        rtt_s=st.none() | st.floats(0, 1),
        local=st.booleans(),
        in_flight=st.integers(0, 9),
        service_time_s=st.floats(0, 1),
    ),
    min_size=1,
    max_size=8,
)


@given(drawn, st.randoms(use_true_random=False))
def test_what_is_picked_is_never_over_twice_the_best(
    candidates: list[Candidate], random: Random
) -> None:
    chosen = pick(candidates, random)
    assert chosen is not None
    best = min(expected_latency_s(c) for c in candidates)
    assert expected_latency_s(chosen) <= 2 * max(best, 0.001)
