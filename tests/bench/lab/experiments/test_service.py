"""The daemon as a process of its own, which is killed like any other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.lab.experiments.daemon import DIED
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.status import ENDED, Status
from bench.lab.experiments.store import Store
from bench.lab.testing import eventually
from overlay.notify import listening

START_TIMEOUT_S = 60.0

PROGRAM = """
import trio
from bench.lab.experiments.service import run
from bench.lab.experiments.settings import ExperimentdSettings
from bench.lab.testing import open_in_memory
from overlay.cli import run_daemon

def open_hosts(settings, sink, tell):
    return open_in_memory(["h1"], sink)

async def main():
    await run(ExperimentdSettings.load({}), open_hosts)

run_daemon(main, log_level="info")
"""

pytestmark = pytest.mark.slow


@contextmanager
def daemon(state_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with listening(state_dir / "ready") as ready:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "DB_", "MYSQL_"))}
        own = {"MYXO_STATE_DIR": str(state_dir), "MYXO_CONFIG_DIR": str(state_dir)}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=kept | own | ready.environment
        )
        try:
            assert ready.wait(process, START_TIMEOUT_S)
            yield process
        finally:
            process.kill()
            process.wait()


async def ended(experiments: Experiments, exp_id: str) -> Experiment:
    async def look() -> Experiment | None:
        found = await experiments.get(exp_id)
        return found if found.status in ENDED else None

    return await eventually(look, START_TIMEOUT_S)


async def test_a_kill_costs_what_ran_and_nothing_else(sqlite_store: Store, tmp_path: Path) -> None:
    experiments = Experiments(sqlite_store)
    long = await experiments.submit({"instructions": "spawn h1 s 1\nrps h1 s 50\nsleep 600"})
    short = await experiments.submit({"instructions": "spawn h1 s 1\nrps h1 s 50\nsleep 0.2"})

    async def has_traces() -> int:
        return (await experiments.show(long.exp_id)).rows["traces"]

    with daemon(tmp_path) as process:
        await eventually(has_traces, START_TIMEOUT_S)
        process.kill()
        process.wait()
    kept = await has_traces()
    with daemon(tmp_path):
        lost = await ended(experiments, long.exp_id)
        assert (lost.status, lost.error) == (Status.FAILED, DIED)
        assert (await ended(experiments, short.exp_id)).status is Status.FINISHED
    assert await has_traces() == kept >= 1


async def test_a_daemon_that_is_told_to_stop_says_so_of_what_it_ran(
    sqlite_store: Store, tmp_path: Path
) -> None:
    experiments = Experiments(sqlite_store)
    submitted = await experiments.submit({"instructions": "sleep 600"})

    async def running() -> bool:
        return (await experiments.get(submitted.exp_id)).status is Status.RUNNING

    with daemon(tmp_path) as process:
        await eventually(running, START_TIMEOUT_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_TIMEOUT_S) == 0
    found = await experiments.get(submitted.exp_id)
    assert found.status is Status.FAILED
    assert "was stopped" in found.error


def test_two_daemons_of_one_state_directory_are_one_too_many(tmp_path: Path) -> None:
    with daemon(tmp_path):
        own = {"MYXO_STATE_DIR": str(tmp_path), "MYXO_CONFIG_DIR": str(tmp_path)}
        second = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    assert second.returncode == 1
    assert "another experimentd runs with the state directory" in second.stderr
