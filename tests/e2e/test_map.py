"""Maps on a whole network: workers are registered, started on demand, reused and lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0
PROGRAM = Path(__file__).parent / "map_program.py"
EXPECTED = f"{sum(x * x + 3 for x in range(100))}\n"


def run(network: Any, *kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, *kind],
        env=network.program_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("kind", ["trio", "asyncio", "sync"])
def test_a_program_maps_over_workers_that_ran_nowhere(process_network: Any, kind: str) -> None:
    done = run(process_network, kind)
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED, "", 0)


def test_a_program_maps_over_a_service_that_ran_nowhere(process_network: Any) -> None:
    done = run(process_network, "service", process_network.add_echo_process(concurrency=10))
    assert (done.stdout, done.stderr, done.returncode) == (f"{sum(range(100))}\n", "", 0)
