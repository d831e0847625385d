"""The files that bound an instance, and a real group of cgroup v2 where one can be made.

No controller can be tried where all of them are bound to the older hierarchy, as on hybrid systems;
there the writer is held to the files that the kernel documents, and to what needs no controller.
"""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from allocator.processes.cgroups import OWN_LEAF, Cgroups, delegated, own_group, settle
from allocator.processes.procfs import ProcessKey, process_key
from allocator.processes.runtime import ProcessRuntime
from allocator.runtime import Launch
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec

ALL = frozenset({"cpu", "memory", "pids"})
I1 = InstanceId("i1")


def test_each_limit_is_written_into_the_file_that_the_kernel_documents(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path, ALL)
    cgroups.make(I1, ServiceSpec(process="x", cpu_millicores=1500, memory_mib=64))
    written = {path.name: path.read_text() for path in cgroups.of(I1).iterdir()}
    assert written == {
        "cpu.max": "150000 100000",
        "memory.max": str(64 * 1024 * 1024),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "4096",
    }


@pytest.mark.parametrize("controller", sorted(ALL))
def test_a_controller_that_is_not_there_is_left_alone_and_named(controller: str) -> None:
    cgroups = Cgroups(Path("/nowhere"), ALL - {controller})
    files = cgroups.limits(ServiceSpec(process="x", cpu_millicores=100, memory_mib=64))
    assert not [name for name in files if name.startswith(controller)]
    assert cgroups.unenforced() == (controller,)


def test_no_requirement_is_no_limit_but_for_the_number_of_processes() -> None:
    assert Cgroups(Path("/nowhere"), ALL).limits(ServiceSpec(process="x")).keys() == {"pids.max"}


def test_a_tiny_share_is_the_least_that_the_kernel_takes() -> None:
    files = Cgroups(Path("/nowhere"), ALL).limits(ServiceSpec(process="x", cpu_millicores=1))
    assert files["cpu.max"] == "1000 100000"


def test_settling_moves_the_allocator_into_a_leaf_and_hands_on_what_there_is(
    tmp_path: Path,
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb\n")
    cgroups = settle(tmp_path, move=True)
    assert cgroups.controllers == {"cpu", "memory"}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (tmp_path / OWN_LEAF / "cgroup.procs").read_text() == str(os.getpid())


def test_the_own_group_is_found_below_the_mount_and_the_root_is_none(tmp_path: Path) -> None:
    mount, memberships, mounts = tmp_path / "mnt", tmp_path / "cgroup", tmp_path / "mountinfo"
    group = mount / "system.slice/myxo.service"
    group.mkdir(parents=True)
    mounts.write_text(
        "31 23 0:28 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n"
        f"41 31 0:38 / {mount} rw shared:10 - cgroup2 cgroup2 rw\n"
    )
    memberships.write_text("4:memory:/else\n0::/system.slice/myxo.service\n")
    assert own_group(memberships, mounts) is None
    (group / "cgroup.type").write_text("domain\n")
    assert own_group(memberships, mounts) == group
    memberships.write_text("0::/\n")
    assert own_group(memberships, mounts) is None
    memberships.write_text("4:memory:/else\n")
    assert own_group(memberships, mounts) is None


def test_what_the_kernel_killed_for_memory_is_known(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path, ALL)
    cgroups.make(I1, ServiceSpec(process="x"))
    events = cgroups.of(I1) / "memory.events"
    assert not cgroups.oom_killed(I1)
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not cgroups.oom_killed(I1)
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n")
    assert cgroups.oom_killed(I1)


def test_a_group_that_nobody_gave_is_not_divided() -> None:
    found = delegated()
    assert found is None or found.root != Path("/sys/fs/cgroup")


# on a real hierarchy


@pytest.fixture
def group() -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    place = next((Path(m[4]) for m in mounts if "cgroup2" in m), None)
    if place is None or not os.access(place, os.W_OK):
        pytest.skip("no cgroup v2 that this user may write")
    made = place / f"myxo-test-{secrets.token_hex(4)}"
    made.mkdir()
    yield made
    for part in made.iterdir():
        if part.is_dir():
            part.rmdir()
    made.rmdir()


@asynccontextmanager
async def running(directory: Path, cgroups: Cgroups) -> AsyncIterator[ProcessRuntime]:
    runtime = ProcessRuntime(directory, cgroups)
    async with trio.open_nursery() as nursery:
        await nursery.start(runtime.run)
        with trio.fail_after(60):
            yield runtime
        nursery.cancel_scope.cancel()


def real(group: Path) -> Cgroups:
    there = set((group / "cgroup.controllers").read_text().split()) & ALL
    if there:
        return settle(group, move=False)
    return Cgroups(group, frozenset())


async def started(runtime: ProcessRuntime, command: str) -> InstanceId:
    spec = ServiceSpec(process=command)
    launch = Launch(InstanceId(secrets.token_hex(5)), ServiceName("x"), 1, PeerId("a"), spec, 4200)
    await runtime.create(launch)
    await runtime.start(launch.id)
    return launch.id


async def inside(cgroups: Cgroups, instance: InstanceId, count: int) -> list[ProcessKey]:
    while True:
        pids = cgroups.entrance(instance).read_text().split()
        if len(pids) >= count:
            return [key for pid in pids if (key := process_key(int(pid))) is not None]
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_what_leaves_its_session_and_its_environment_does_not_leave_its_group(
    tmp_path: Path, group: Path
) -> None:
    cgroups = real(group)
    async with running(tmp_path, cgroups) as runtime:
        instance = await started(runtime, "env -i setsid sleep 1000 & exec sleep 1001")
        before = await inside(cgroups, instance, 2)
        await runtime.remove(instance, grace_s=0)
        assert len(before) == 2
        assert [key for key in before if process_key(key.pid) == key] == []
        assert not cgroups.of(instance).exists()


async def test_the_end_of_the_command_is_the_end_of_its_group(tmp_path: Path, group: Path) -> None:
    cgroups = real(group)
    async with running(tmp_path, cgroups) as runtime:
        instance = await started(runtime, "env -i setsid sleep 1000 & sleep 0.1")
        await inside(cgroups, instance, 2)
        await runtime.exited(instance)
        while cgroups.entrance(instance).read_text():
            await trio.testing.wait_all_tasks_blocked(0.01)
        await runtime.remove(instance, grace_s=0)


async def test_the_next_allocator_ends_a_group_that_it_adopts(tmp_path: Path, group: Path) -> None:
    cgroups = real(group)
    async with running(tmp_path, cgroups) as first:
        instance = await started(first, "env -i setsid sleep 1000 & exec sleep 1001")
        await inside(cgroups, instance, 2)
    async with running(tmp_path, cgroups) as second:
        assert [found.id for found in await second.adopt()] == [instance]
        await second.remove(instance, grace_s=0)
        assert not cgroups.of(instance).exists()


async def test_health_names_what_the_group_does_not_bound(tmp_path: Path) -> None:
    bounded = ProcessRuntime(tmp_path, Cgroups(tmp_path, ALL)).health().unenforced
    assert [text.partition(":")[0] for text in bounded] == ["isolation"]
    free = ProcessRuntime(tmp_path).health().unenforced
    assert [text.partition(":")[0] for text in free] == [
        "CpuReq",
        "MemoryReq",
        "the number of an instance's processes",
        "isolation",
    ]


async def test_a_pause_freezes_even_what_left_its_session_and_its_environment(
    tmp_path: Path, group: Path
) -> None:
    cgroups = real(group)
    beat = tmp_path / "beat"
    beating = f"while :; do date +%N > {beat}; sleep 0.005; done"
    async with running(tmp_path / "i", cgroups) as runtime:
        instance = await started(runtime, f"env -i setsid sh -c '{beating}' & exec sleep 1000")
        while not beat.exists():
            await trio.testing.wait_all_tasks_blocked(0.01)
        await runtime.pause(instance)
        assert cgroups.is_frozen(instance)
        then = beat.read_bytes()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert beat.read_bytes() == then
        await runtime.resume(instance)
        while beat.read_bytes() in {then, b""}:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await runtime.remove(instance, grace_s=0)


async def test_a_frozen_instance_is_adopted_as_paused_and_hears_that_it_shall_end(
    tmp_path: Path, group: Path
) -> None:
    cgroups = real(group)
    told = tmp_path / "told"
    async with running(tmp_path / "i", cgroups) as first:
        command = f"trap 'echo bye > {told}; exit 0' TERM; while :; do sleep 0.01; done"
        instance = await started(first, command)
        await inside(cgroups, instance, 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await first.pause(instance)
    async with running(tmp_path / "i", cgroups) as second:
        assert [found.paused for found in await second.adopt()] == [True]
        await second.remove(instance, grace_s=10)
        assert told.read_text() == "bye\n"
        assert not cgroups.of(instance).exists()
