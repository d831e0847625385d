"""Dask's scheduler and workers as services: allocated, scaled, replaced and freed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TIMEOUT_S = 170.0
PROGRAM = Path(__file__).parent / "dask_program.py"


def run(network: Any, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        env=network.program_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_a_cluster_is_scaled_up_and_down_and_computes(process_network: Any) -> None:
    run(process_network, "scaled")


@pytest.mark.parametrize("what", ["worker", "instance"])
def test_a_worker_that_is_lost_at_work_is_replaced_and_its_work_done(
    process_network: Any, tmp_path: Path, what: str
) -> None:
    run(process_network, "lost", what, str(tmp_path / "began"))
