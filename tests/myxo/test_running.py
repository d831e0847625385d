"""Who runs this machine's part, and `myxo down`, which ends it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from myxo.running import held, stop
from overlay.errors import MyxoError

HOLD = """
import sys, time
from pathlib import Path
from myxo.running import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(run_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that runs this machine's part."""
    command = [sys.executable, "-c", HOLD, str(run_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_nothing_is_stopped_where_nothing_runs(tmp_path: Path) -> None:
    assert not stop(tmp_path / "run")
    with held(tmp_path / "run"):
        pass
    assert not stop(tmp_path / "run")


def test_who_runs_is_interrupted_as_by_ctrl_c(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert stop(tmp_path)
        assert process.wait(30) == -signal.SIGINT


def test_only_one_process_runs_a_machines_part(tmp_path: Path) -> None:
    with holder(tmp_path), pytest.raises(MyxoError, match="just starting"), held(tmp_path):
        pass


def test_what_a_killed_process_left_names_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / "up").read_text() == str(process.pid)
        assert not stop(tmp_path)
        with held(tmp_path):
            pass


@pytest.mark.slow
def test_down_stops_what_up_runs(daemons: Any) -> None:
    ports = [str(daemons.free_port()) for _ in range(2)]
    flags = ("--proxy-port", ports[0], "--p2p-listen-addr", f"127.0.0.1:{ports[1]}")
    up = daemons("myxo", "up", "--runtime", "process", *flags)

    def down() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(Path(sys.executable).parent / "myxo"), "down"],
            env=daemons.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    stopped = down()
    assert (stopped.returncode, stopped.stdout) == (0, "everything stopped\n"), stopped.stderr
    assert up.process.wait(30) == 0
    again = down()
    assert again.returncode == 1
    assert "neither `myxo up` nor `myxo join` runs here" in again.stderr
