"""Maps on a whole network: workers are registered, started on demand, reused and lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
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


@contextmanager
def endless_map(network: Any) -> Iterator[Iterator[int]]:
    """Yield how many workers a map that does not end has had, again and again."""
    program = subprocess.Popen(
        [sys.executable, PROGRAM, "endless"],
        env=network.program_environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        yield map(int, program.stdout)
    finally:
        program.kill()
        program.wait(TIMEOUT_S)
        program.stdout.close()


@pytest.mark.parametrize("kind", ["trio", "asyncio", "sync"])
def test_a_program_maps_over_workers_that_ran_nowhere(process_network: Any, kind: str) -> None:
    done = run(process_network, kind)
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED, "", 0)


def test_a_program_maps_over_a_service_that_ran_nowhere(process_network: Any) -> None:
    done = run(process_network, "service", process_network.add_echo_process(concurrency=10))
    assert (done.stdout, done.stderr, done.returncode) == (f"{sum(range(100))}\n", "", 0)


def test_a_map_has_its_results_while_another_one_goes_on(process_network: Any) -> None:
    with endless_map(process_network) as workers:
        next(workers)
        assert run(process_network, "trio").stdout == EXPECTED
        next(workers)


def test_a_service_has_its_room_on_a_machine_full_of_workers(own_network: Any) -> None:
    cores = len(os.sched_getaffinity(0))
    service = own_network.add_echo_process(CpuReq=1000 * cores, idle_pause_s=1)
    with endless_map(own_network) as workers:
        while next(workers) < cores:
            pass
        assert httpx.get(own_network.url(service), timeout=TIMEOUT_S).status_code == 200
        allocator = own_network.running["allocator"].printed()
        assert allocator.count('"why": "preempted"') == cores
        # It rests when nobody asks for it, and the map has its workers again.
        while next(workers) < cores + 1:
            pass
    own_network.no_traceback()
