"""Dask's scheduler and workers as services: allocated, scaled and freed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TIMEOUT_S = 170.0
PROGRAM = Path(__file__).parent / "dask_program.py"


def test_a_cluster_is_scaled_up_and_down_and_computes(
    process_network: Any,
) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env=process_network.program_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
