import os
from pathlib import Path

import pytest
import trio
import trio.testing

from myxo.daemons import Daemon
from myxo.supervisor import DaemonFailed, Supervisor, supervised

pytestmark = pytest.mark.slow


def bootstrap(state: Path, *flags: str) -> Daemon:
    own = ["--state-dir", str(state), "--ephemeral", "--log-level", "error"]
    listen = ["--p2p-listen-addr", "127.0.0.1:0", "--prom-listen-addr", "127.0.0.1:0"]
    return Daemon("bootstrap", [*own, *listen, *flags], {"P2P_PSK": "secret"})


def refused(why: str) -> "pytest.RaisesGroup[DaemonFailed]":
    return pytest.RaisesGroup(pytest.RaisesExc(DaemonFailed, match=why), flatten_subgroups=True)


def process_of(supervisor: Supervisor) -> trio.Process:
    process = supervisor._processes["bootstrap"]
    assert isinstance(process, trio.Process)
    return process


async def test_a_daemon_is_ready_when_start_returns_and_ended_when_the_block_is_left(
    tmp_path: Path,
) -> None:
    with trio.fail_after(60):
        async with supervised() as supervisor:
            await supervisor.start([bootstrap(tmp_path)])
            process = process_of(supervisor)
            assert process.returncode is None
        assert process.returncode == 0


async def test_a_daemon_that_ends_is_started_again(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with supervised() as supervisor:
            await supervisor.start([bootstrap(tmp_path)])
            first = process_of(supervisor)
            first.kill()
            await first.wait()
            while process_of(supervisor) is first:
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert process_of(supervisor).pid != first.pid


async def test_a_daemon_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with trio.fail_after(60), refused("^bootstrap did not start$"):
        async with supervised() as supervisor:
            await supervisor.start([bootstrap(tmp_path, "--no-such-flag")])


async def test_the_error_of_a_daemon_that_does_not_start_says_why(tmp_path: Path) -> None:
    with trio.fail_after(60), refused("^bootstrap did not start: .*nonsense.* is not an address"):
        async with supervised() as supervisor:
            await supervisor.start([bootstrap(tmp_path, "--bootstrap", "nonsense")])


async def test_a_daemon_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel's parent-death signal counts threads, and trio's end after 10 s of idleness."""
    with trio.fail_after(60):
        async with supervised() as supervisor:
            await supervisor.start([bootstrap(tmp_path)])
            process = process_of(supervisor)
            with trio.move_on_after(12):
                await process.wait()
            assert process.returncode is None
            os.kill(process.pid, 0)
