from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.membership import MemberState
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.records import InstanceRecord, InstanceState, PeerRecord, Role, Room, Version
from overlay.spec import Image, ServiceSpec
from overlay.view import Distance, InstanceView, PeerView
from proxy.ranking.limits import limits_of
from proxy.ranking.placement import RESUME_S, UNOBSERVED, Cost, Site, There, Times, rank, survey

DIGEST = Digest("sha256:" + "0" * 64)
PULLABLE = Image(reference="hello", config_digest=DIGEST, repo_digest="hello@sha256:1")
LOCAL_ONLY = Image(reference="hello", config_digest=DIGEST)
PROCESS = ServiceSpec(process="serve")
EMPTY = Room(cpu_millicores=64_000, memory_mib=65_536, instances=100)


def allocator(
    name: str = "a",
    *,
    rtt_s: float | None = 0.001,
    local: bool = False,
    state: MemberState = MemberState.ALIVE,
    room: Room | None = None,
    runtimes: tuple[str, ...] = ("docker", "process"),
    platform: str = "linux/amd64",
    images: tuple[Digest, ...] = (),
    labels: dict[str, str] | None = None,
    error_s: float | None = None,
) -> PeerView:
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host=name,
        room=room or Room(cpu_millicores=1000, memory_mib=1000, instances=10),
        runtimes=runtimes,
        platform=platform,
        images=images,
        labels=labels or {},
    )
    measured = error_s is None
    distance = None if rtt_s is None else Distance(rtt_s, error_s or 0.0, measured=measured)
    return PeerView(PeerId(name), record, state, distance, local)


def sites(
    *allocators: PeerView,
    spec: ServiceSpec = PROCESS,
    there: dict[str, There] | None = None,
    times: Times = UNOBSERVED,
) -> tuple[Site, ...]:
    known = {PeerId(name): what for name, what in (there or {}).items()}
    return rank(allocators, spec, limits_of(spec), known, times).sites


def order(
    *allocators: PeerView,
    spec: ServiceSpec = PROCESS,
    starting: tuple[str, ...] = (),
    there: dict[str, There] | None = None,
) -> list[str]:
    known = {name: There(1, starting=True) for name in starting} | (there or {})
    return [s.allocator.peer_id for s in sites(*allocators, spec=spec, there=known)]


def cost(alone: PeerView, spec: ServiceSpec = PROCESS, there: There | None = None) -> Cost:
    (site,) = sites(alone, spec=spec, there={alone.peer_id: there or There()})
    return site.cost


def why(excluded: PeerView, spec: ServiceSpec) -> str:
    ranking = rank([excluded], spec, limits_of(spec), {})
    assert ranking.sites == ()
    (reason,) = ranking.excluded
    assert reason.startswith(f"{excluded.record.host}: ")
    return reason


def test_a_suspect_is_left_out() -> None:
    assert "does not answer" in why(allocator(state=MemberState.SUSPECT), PROCESS)


def test_a_missing_runtime_is_named_with_what_there_is() -> None:
    reason = why(allocator(runtimes=("docker",)), PROCESS)
    assert "docker" in reason
    assert "process" in reason
    assert "no runtime" in why(allocator(runtimes=()), PROCESS)


def test_another_platform_is_named() -> None:
    reason = why(allocator(platform="linux/arm64"), ServiceSpec(image=PULLABLE))
    assert "linux/arm64" in reason
    assert "linux/amd64" in reason


def test_a_machine_that_does_not_list_the_image_is_asked_last() -> None:
    spec = ServiceSpec(image=LOCAL_ONLY)
    assert order(allocator("b"), allocator("a", images=(DIGEST,)), spec=spec) == ["a", "b"]


def test_the_hard_limit_excludes_but_not_the_own_machine() -> None:
    spec = ServiceSpec(process="serve", hard_rtt_ms=10)
    assert "RTT 10.1 ms is over the hard limit" in why(allocator(rtt_s=0.0101), spec)
    assert "not known" in why(allocator(rtt_s=None), spec)
    assert order(allocator("at", rtt_s=0.01), spec=spec) == ["at"]
    assert order(allocator("own", rtt_s=None, local=True), spec=spec) == ["own"]


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (Room(cpu_millicores=499, memory_mib=64, instances=1), "499 millicores are free"),
        (Room(cpu_millicores=500, memory_mib=63, instances=1), "63 MiB are free"),
        (Room(cpu_millicores=500, memory_mib=64, instances=0), "takes no more instances"),
    ],
)
def test_a_lack_of_room_is_said_in_numbers(room: Room, text: str) -> None:
    spec = ServiceSpec(process="serve", cpu_millicores=500, memory_mib=64)
    assert text in why(allocator(room=room), spec)


def test_what_preemptible_instances_hold_counts_as_room() -> None:
    spec = ServiceSpec(process="serve", cpu_millicores=500, memory_mib=64)
    held = Room(
        cpu_millicores=100,
        memory_mib=0,
        instances=0,
        preemptible_millicores=400,
        preemptible_mib=64,
        preemptible_instances=1,
    )
    assert [s.allocator.peer_id for s in sites(allocator(room=held), spec=spec)] == ["a"]
    gone = held.less(cpu_millicores=101, memory_mib=0, instances=0)
    assert "399 millicores are free" in why(allocator(room=gone), spec)


def test_exactly_enough_room_is_enough() -> None:
    spec = ServiceSpec(process="serve", cpu_millicores=500, memory_mib=64)
    room = Room(cpu_millicores=500, memory_mib=64, instances=1)
    assert order(allocator("a", room=room), spec=spec) == ["a"]


def test_the_nearer_comes_first_and_the_own_machine_before_all() -> None:
    far, near = allocator("far", rtt_s=0.08), allocator("near", rtt_s=0.004)
    unknown, own = allocator("unknown", rtt_s=None), allocator("own", rtt_s=0.9, local=True)
    assert order(far, unknown, near, own) == ["own", "near", "far", "unknown"]


def test_an_estimate_counts_with_its_error() -> None:
    measured = allocator("measured", rtt_s=0.012)
    estimated = allocator("estimated", rtt_s=0.01, error_s=0.005)
    assert order(estimated, measured) == ["measured", "estimated"]


def test_a_paused_instance_is_worth_a_little_distance_but_not_much() -> None:
    there = {"paused": There(1, resume_s=0.02)}
    fresh = allocator("fresh", rtt_s=0.001)
    assert order(fresh, allocator("paused", rtt_s=0.003), there=there) == ["paused", "fresh"]
    assert order(fresh, allocator("paused", rtt_s=0.03), there=there) == ["fresh", "paused"]


def test_an_image_that_must_be_fetched_is_worth_a_far_machine_that_has_it() -> None:
    spec = ServiceSpec(image=PULLABLE)
    near, far = allocator("near"), allocator("far", rtt_s=0.1, images=(DIGEST,))
    assert order(near, far, spec=spec) == ["far", "near"]
    quick = sites(near, far, spec=spec, times=Times(fetch_s=0.5))
    assert [s.allocator.peer_id for s in quick] == ["near", "far"]


def test_within_the_soft_limit_comes_first_unless_its_start_takes_ages() -> None:
    spec = ServiceSpec(image=LOCAL_ONLY, soft_rtt_ms=5)
    within = allocator("within", rtt_s=0.005, images=(DIGEST,))
    over = allocator("over", rtt_s=0.0051, images=(DIGEST,), room=EMPTY)
    assert order(over, within, spec=spec) == ["within", "over"]
    without = allocator("within", rtt_s=0.005)
    assert order(over, without, spec=spec) == ["over", "within"]


def test_an_unknown_distance_is_over_every_soft_limit() -> None:
    spec = ServiceSpec(process="serve", soft_rtt_ms=5)
    assert cost(allocator(rtt_s=None), spec).over_soft_s > 0


def test_constraints_exclude_and_wishes_rank() -> None:
    must = ServiceSpec(process="serve", constraints={"zone": ("a",)})
    assert "its zone is b" in why(allocator(labels={"zone": "b"}), must)
    wish = ServiceSpec(process="serve", prefer={"zone": ("a",)})
    other, wanted = allocator("other"), allocator("wanted", rtt_s=0.04, labels={"zone": "a"})
    assert order(other, wanted, spec=wish) == ["wanted", "other"]
    assert order(other, spec=wish) == ["other"]


def test_the_built_in_labels_can_be_asked_for() -> None:
    here, other = allocator("here"), allocator("other")
    spec = ServiceSpec(process="serve", constraints={"host": ("!here",)})
    assert order(here, other, spec=spec) == ["other"]


def test_among_equals_the_service_spreads_and_looks_for_room() -> None:
    there = {"has two": There(2)}
    assert order(allocator("has two"), allocator("has none"), there=there)[0] == "has none"
    assert order(allocator("small"), allocator("big", room=EMPTY))[0] == "big"


def test_a_start_that_is_under_way_is_joined_within_the_soft_limit_only() -> None:
    spec = ServiceSpec(process="serve", soft_rtt_ms=50)
    near, joined = allocator("near"), allocator("starting", rtt_s=0.04)
    assert order(near, joined, spec=spec, starting=("starting",)) == ["starting", "near"]
    away = allocator("starting", rtt_s=0.06)
    assert order(near, away, spec=spec, starting=("starting",)) == ["near", "starting"]


def test_a_start_on_another_continent_is_not_joined_without_a_limit_either() -> None:
    near, away = allocator("near"), allocator("starting", rtt_s=0.15)
    assert order(near, away, starting=("starting",)) == ["near", "starting"]


def test_what_is_paused_has_its_memory_already_but_needs_a_processor() -> None:
    spec = ServiceSpec(process="serve", cpu_millicores=500, memory_mib=64)
    no_memory = allocator(room=Room(cpu_millicores=500, memory_mib=0, instances=0))
    assert cost(no_memory, spec, There(1, resume_s=0.02)).start_s == 0.02
    no_cpu = allocator(room=Room(cpu_millicores=0, memory_mib=900, instances=9))
    known = {no_cpu.peer_id: There(1, resume_s=0.02)}
    assert rank([no_cpu], spec, limits_of(spec), known).sites == ()


def instance(state: InstanceState, *, revision: int = 1, resume_s: float = 0.0) -> InstanceView:
    record = InstanceRecord(
        version=Version(epoch=1.0, counter=1),
        id=InstanceId(f"i-{state}"),
        service=ServiceName("hello"),
        revision=revision,
        state=state,
        concurrency=1,
        resume_s=resume_s,
    )
    return InstanceView(PeerId("a"), record, 0.001, local=False, suspect=False)


def test_a_survey_counts_all_and_tells_what_can_be_resumed_or_joined() -> None:
    seen = [
        instance(InstanceState.READY),
        instance(InstanceState.PAUSED, resume_s=0.5),
        instance(InstanceState.PAUSED),
        instance(InstanceState.STARTING, revision=2),
    ]
    assert survey(seen, 1) == {PeerId("a"): There(4, starting=False, resume_s=RESUME_S)}
    assert survey(seen, 2) == {PeerId("a"): There(4, starting=True, resume_s=None)}
    assert survey([], 1) == {}


rooms = st.builds(
    Room,
    cpu_millicores=st.integers(0, 64_000),
    memory_mib=st.integers(0, 65_536),
    instances=st.integers(0, 3),
)
things = st.builds(
    There, st.integers(0, 20), st.booleans(), st.none() | st.floats(0.001, 2, allow_nan=False)
)
machines = st.builds(
    allocator,
    rtt_s=st.none() | st.floats(0, 1),
    error_s=st.none() | st.floats(0, 0.5),
    local=st.booleans(),
    state=st.sampled_from([MemberState.ALIVE, MemberState.SUSPECT]),
    room=rooms,
    runtimes=st.sampled_from([(), ("docker",), ("process",), ("docker", "process")]),
    platform=st.sampled_from(["linux/amd64", "linux/arm64"]),
    images=st.sampled_from([(), (DIGEST,)]),
    labels=st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}]),
)
zones = st.sampled_from([{}, {"zone": ("a",)}, {"zone": ("!a",)}, {"zone": ("a", "b")}])
specs = st.builds(
    ServiceSpec,
    image=st.sampled_from([PULLABLE, LOCAL_ONLY]),
    cpu_millicores=st.integers(0, 4000),
    memory_mib=st.integers(0, 4096),
    soft_rtt_ms=st.none() | st.floats(1, 500),
    hard_rtt_ms=st.none() | st.floats(1, 500),
    constraints=zones,
    prefer=zones,
) | st.builds(ServiceSpec, process=st.just("serve"), hard_rtt_ms=st.none() | st.floats(1, 500))
networks = st.lists(st.tuples(machines, things), max_size=6).map(
    lambda found: [
        (replace(machine, peer_id=PeerId(str(number))), there)
        for number, (machine, there) in enumerate(found)
    ]
)


def is_feasible(machine: PeerView, spec: ServiceSpec, there: There) -> bool:
    """Say so again, plainly: the dumb version of what excludes a machine."""
    record, room = machine.record, machine.record.room
    assert room is not None
    zone = record.labels.get("zone", "")
    wanted = spec.constraints.get("zone", ("!nowhere",))
    return all(
        [
            machine.state is MemberState.ALIVE,
            spec.runtime in record.runtimes,
            spec.image is None or record.platform in spec.image.platforms,
            zone in wanted or (wanted[0].startswith("!") and f"!{zone}" not in wanted),
            spec.hard_rtt_ms is None
            or machine.local
            or (machine.rtt_s is not None and machine.rtt_s <= spec.hard_rtt_ms / 1000),
            spec.cpu_millicores <= room.cpu_millicores,
            there.resume_s is not None
            or (spec.memory_mib <= room.memory_mib and room.instances >= 1),
        ]
    )


@given(networks, specs)
def test_exactly_what_is_feasible_is_ranked_and_all_else_has_a_reason(
    network: list[tuple[PeerView, There]], spec: ServiceSpec
) -> None:
    there = {machine.peer_id: what for machine, what in network}
    ranking = rank([m for m, _ in network], spec, limits_of(spec), there)
    ranked = {site.allocator.peer_id for site in ranking.sites}
    assert ranked == {m.peer_id for m, what in network if is_feasible(m, spec, what)}
    assert len(ranking.sites) + len(ranking.excluded) == len(network)


@given(networks, specs)
def test_the_first_is_the_cheapest_and_each_cost_is_the_sum_of_its_parts(
    network: list[tuple[PeerView, There]], spec: ServiceSpec
) -> None:
    there = {machine.peer_id: what for machine, what in network}
    costs = [s.cost for s in rank([m for m, _ in network], spec, limits_of(spec), there).sites]
    assert [c.total_s for c in costs] == sorted(c.total_s for c in costs)
    assert all(c.total_s == pytest.approx(sum(c.parts().values())) for c in costs)
    assert all(part >= 0 for c in costs for part in c.parts().values())


@given(st.floats(0, 1), st.floats(0, 1), specs, things, rooms)
def test_nearer_is_never_dearer(
    one_s: float, other_s: float, spec: ServiceSpec, there: There, room: Room
) -> None:
    spec = spec.model_copy(update={"hard_rtt_ms": None, "constraints": {}})
    totals = [
        site.cost.total_s
        for rtt_s in sorted([one_s, other_s])
        for site in sites(allocator(rtt_s=rtt_s, room=room), spec=spec, there={"a": there})
    ]
    assert totals == sorted(totals)


@given(rooms, st.integers(0, 9000), st.integers(0, 9000), specs, things)
def test_more_room_is_never_dearer_and_never_excludes(
    room: Room, cpu: int, memory: int, spec: ServiceSpec, there: There
) -> None:
    more = Room(
        cpu_millicores=room.cpu_millicores + cpu,
        memory_mib=room.memory_mib + memory,
        instances=room.instances,
    )
    tight, roomy = (sites(allocator(room=r), spec=spec, there={"a": there}) for r in (room, more))
    assert len(roomy) >= len(tight)
    if tight:
        assert roomy[0].cost.total_s <= tight[0].cost.total_s
