"""Processes: what a person would lose if it were wrong."""

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from allocator.processes import listening
from allocator.processes import runtime as runtimes
from allocator.processes.procfs import (
    ProcessKey,
    is_stopped,
    look,
    open_pidfd,
    process_key,
    tell_each,
)
from allocator.processes.runtime import ProcessRuntime
from allocator.runtime import Launch
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[ProcessRuntime]:
    runtime = ProcessRuntime(directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(runtime.run)
        with trio.fail_after(20):
            yield runtime
        nursery.cancel_scope.cancel()


async def started(runtime: ProcessRuntime, command: str, **fields: int) -> InstanceId:
    spec = ServiceSpec.model_validate({"process": command, **fields})
    launch = Launch(InstanceId(secrets.token_hex(5)), ServiceName("x"), 1, PeerId("a"), spec, 4200)
    await runtime.create(launch)
    await runtime.start(launch.id)
    return launch.id


async def log_of(runtime: ProcessRuntime, instance: InstanceId) -> str:
    await runtime.exited(instance)
    return (await runtime.post_mortem(instance)).log


async def spoke(directory: Path, instance: InstanceId) -> None:
    while not (directory / f"{instance}.log").read_text():
        await trio.testing.wait_all_tasks_blocked(0.005)


def pids(instance: InstanceId) -> list[int]:
    return sorted(key.pid for key in look().members(instance))


async def test_everything_that_an_instance_started_ends_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        command = "sleep 1000 & (setsid sleep 1001 &) ; env -i sleep 1002 & echo on; wait"
        instance = await started(runtime, command)
        await spoke(tmp_path, instance)
        session = runtime._processes[instance].launch.pid
        before = [key.pid for key in look().members(instance, session)]
        assert len(before) >= 3
        await runtime.remove(instance, grace_s=1)
        assert not pids(instance)
        assert not any(process_key(pid) for pid in before)
        assert not list(tmp_path.iterdir())


async def test_what_does_not_die_in_time_is_forgotten_and_watched_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "KILL_TIMEOUT_S", 0.0)
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "echo on; sleep 1000")
        await spoke(tmp_path, instance)
        process = runtime._processes[instance]
        await runtime.remove(instance, grace_s=0)
        await process.ended.wait()
        assert process.pidfd is None


async def test_what_ignores_the_polite_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "trap '' TERM; echo on; while true; do sleep 1; done")
        await spoke(tmp_path, instance)
        begun = trio.current_time()
        await runtime.remove(instance, grace_s=0.2)
        assert trio.current_time() - begun >= 0.2
        assert not pids(instance)


async def test_a_polite_signal_lets_an_instance_end_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        told = tmp_path / "told"
        command = f"trap 'echo bye > {told}; exit 0' TERM; echo on; while :; do sleep 0.01; done"
        instance = await started(runtime, command)
        await spoke(tmp_path, instance)
        await runtime.remove(instance, grace_s=10)
        assert told.read_text() == "bye\n"


async def test_a_process_id_that_was_used_again_is_not_touched(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        instance = await started(first, "exec sleep 1000")
    path = tmp_path / f"{instance}.json"
    state = first._processes[instance].launch
    (actual,) = look().members(instance)
    path.write_text(state.model_copy(update={"start_time": 1}).model_dump_json())
    stranger = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})  # noqa: ASYNC221  (returns at once)
    try:
        other = state.model_copy(update={"id": "other", "pid": stranger, "start_time": 1})
        (tmp_path / "other.json").write_text(other.model_dump_json())
        async with opened(tmp_path) as second:
            assert await second.adopt() == []
        assert process_key(stranger) is not None
        with trio.fail_after(20):  # it was killed, and dies when it gets a processor
            while process_key(actual.pid) is not None:
                await trio.lowlevel.checkpoint()
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)  # noqa: ASYNC222  (it was killed)
    os.waitpid(actual.pid, 0)  # noqa: ASYNC222  (it is a zombie)


async def test_an_unreadable_state_file_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    async with opened(tmp_path) as runtime:
        assert await runtime.adopt() == []
    assert not (tmp_path / "broken.json").exists()


async def test_limits_hold_for_the_command(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "ulimit -d", memory_mib=100)
        assert await log_of(runtime, instance) == str(100 * 1024)
        free = await started(runtime, "ulimit -d")
        assert await log_of(runtime, free) == "unlimited"
        unenforced = " ".join(runtime.health().unenforced)
        assert "MemoryReq" in unenforced
        assert "CpuReq" in unenforced


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
async def test_half_a_core_is_bound_to_one_core_and_the_next_to_another(tmp_path: Path) -> None:
    command = "grep Cpus_allowed_list /proc/self/status"
    async with opened(tmp_path) as runtime:
        seen = [
            await log_of(runtime, await started(runtime, command, cpu_millicores=500))
            for _ in range(2)
        ]
    cores = {line.split()[-1] for line in seen}
    assert all(core.isdigit() for core in cores)
    assert len(cores) == 2
    assert len(os.sched_getaffinity(0)) >= 2


async def test_a_command_does_not_get_the_daemons_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2P_PSK", "hush")
    monkeypatch.setenv("MYXO_PSK", "hush")
    async with opened(tmp_path) as runtime:
        assert "hush" not in await log_of(runtime, await started(runtime, "env"))


async def test_a_killed_command_has_a_shells_exit_code(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "kill -9 $$")
        await runtime.exited(instance)
        assert (await runtime.post_mortem(instance)).exit_code == 128 + 9


def test_a_pidfd_is_only_given_for_exactly_this_process() -> None:
    me = process_key(os.getpid())
    assert me is not None
    fd = open_pidfd(me)
    assert fd is not None
    os.close(fd)
    assert open_pidfd(ProcessKey(me.pid, me.start_time + 1, me.boot)) is None
    assert open_pidfd(ProcessKey(me.pid, me.start_time, "another boot")) is None


async def test_what_starts_processes_all_the_time_is_paused_as_a_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "echo on; while :; do sleep 0.001 & wait; done")
        await spoke(tmp_path, instance)
        for _ in range(5):
            await runtime.pause(instance)
            found = look().members(instance)
            assert found
            assert all(is_stopped(key) for key in found)
            await runtime.resume(instance)
        assert not all(is_stopped(key) for key in look().members(instance))
        await runtime.remove(instance, grace_s=0)


async def test_a_pause_that_was_cut_in_the_middle_is_undone_by_the_next_allocator(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, "echo on; sleep 1000 & sleep 1000 & wait")
        await spoke(tmp_path, instance)
        tell_each(look().members(instance)[:1], signal.SIGSTOP)
    async with opened(tmp_path) as runtime:
        (found,) = await runtime.adopt()
        assert not found.paused
        while any(is_stopped(key) for key in look().members(instance)):
            await trio.testing.wait_all_tasks_blocked(0.005)
        await runtime.remove(instance, grace_s=0)


LISTENING = """exec python3 -c 'import socket, time
s = socket.create_server(("%s", 0))
print(s.getsockname()[1], flush=True)
time.sleep(1000)'"""


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_an_instance_that_listens_elsewhere_than_on_loopback_is_reported(
    tmp_path: Path, host: str
) -> None:
    async with opened(tmp_path) as runtime:
        instance = await started(runtime, LISTENING % host)
        await spoke(tmp_path, instance)
        port = (tmp_path / f"{instance}.log").read_text().strip()
        with capture_logs() as logs:
            await runtime.find_exposed()
            await runtime.find_exposed()
        said = [text for text in runtime.health().unenforced if text.startswith("loopback")]
        if host == "127.0.0.1":
            assert (said, logs) == ([], [])
        else:
            assert said == [f"loopback: x ({instance}) listens on 0.0.0.0:{port}"]
            assert [entry["event"] for entry in logs] == ["instance.exposed"]
        await runtime.remove(instance, grace_s=0)


def test_addresses_of_both_families_are_read_as_the_kernel_writes_them() -> None:
    words = {
        "0100007F:1F90": ("127.0.0.1", 8080),
        "00000000:0050": ("0.0.0.0", 80),
        "00000000000000000000000001000000:0050": ("::1", 80),
        "0000000000000000FFFF00000100007F:0050": ("127.0.0.1", 80),
    }
    for text, (host, port) in words.items():
        found = listening._address(text)
        assert (str(found[0]), found[1]) == (host, port)
