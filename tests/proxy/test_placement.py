import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.membership import MemberState
from overlay.names import Digest, PeerId
from overlay.records import PeerRecord, Role, Room, Version
from overlay.spec import Image, ServiceSpec
from overlay.view import Distance, PeerView
from proxy.placement import rank

DIGEST = Digest("sha256:" + "0" * 64)
PULLABLE = Image(reference="hello", config_digest=DIGEST, repo_digest="hello@sha256:1")
LOCAL_ONLY = Image(reference="hello", config_digest=DIGEST)
PROCESS = ServiceSpec(process="serve")


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
) -> PeerView:
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host=name,
        room=room or Room(cpu_millicores=1000, memory_mib=1000, instances=10),
        runtimes=runtimes,
        platform=platform,
        images=images,
    )
    distance = None if rtt_s is None else Distance(rtt_s, 0.0, measured=True)
    return PeerView(PeerId(name), record, state, distance, local)


def order(
    *allocators: PeerView, spec: ServiceSpec = PROCESS, starting: tuple[str, ...] = ()
) -> list[str]:
    ranking = rank(allocators, spec, starting=frozenset(PeerId(s) for s in starting))
    return [c.peer_id for c in ranking.candidates]


def why(excluded: PeerView, spec: ServiceSpec) -> str:
    ranking = rank([excluded], spec, starting=frozenset())
    assert ranking.candidates == ()
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


def test_exactly_enough_room_is_enough() -> None:
    spec = ServiceSpec(process="serve", cpu_millicores=500, memory_mib=64)
    room = Room(cpu_millicores=500, memory_mib=64, instances=1)
    assert order(allocator("a", room=room), spec=spec) == ["a"]


def test_the_nearer_band_comes_first_and_the_own_machine_before_all() -> None:
    far, near = allocator("far", rtt_s=0.08), allocator("near", rtt_s=0.004)
    unknown, own = allocator("unknown", rtt_s=None), allocator("own", rtt_s=0.9, local=True)
    assert order(far, unknown, near, own) == ["own", "near", "far", "unknown"]


def test_within_a_band_the_image_counts_then_the_room_then_the_distance() -> None:
    spec = ServiceSpec(image=PULLABLE)
    roomy = Room(cpu_millicores=9000, memory_mib=100, instances=9)
    found = order(
        allocator("further", rtt_s=0.0012),
        allocator("nearer", rtt_s=0.0011),
        allocator("roomy", rtt_s=0.0019, room=roomy),
        allocator("has it", rtt_s=0.0019, images=(DIGEST,)),
        spec=spec,
    )
    assert found == ["has it", "roomy", "nearer", "further"]


def test_a_start_that_is_under_way_is_joined_within_the_soft_limit_only() -> None:
    spec = ServiceSpec(process="serve", soft_rtt_ms=50)
    near, joined = allocator("near"), allocator("starting", rtt_s=0.04)
    assert order(near, joined, spec=spec, starting=("starting",)) == ["starting", "near"]
    away = allocator("starting", rtt_s=0.06)
    assert order(near, away, spec=spec, starting=("starting",)) == ["near", "starting"]


@given(
    st.lists(
        st.builds(
            allocator,
            rtt_s=st.none() | st.floats(0, 1),
            local=st.booleans(),
            state=st.sampled_from([MemberState.ALIVE, MemberState.SUSPECT]),
            runtimes=st.sampled_from([(), ("docker",), ("process",)]),
        )
    )
)
def test_every_allocator_is_either_ranked_or_left_out_with_one_reason(
    allocators: list[PeerView],
) -> None:
    ranking = rank(allocators, PROCESS, starting=frozenset())
    assert len(ranking.candidates) + len(ranking.excluded) == len(allocators)
    assert all(c.state is MemberState.ALIVE for c in ranking.candidates)
