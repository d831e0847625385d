"""One seed is one course of events, in every process."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from bench.sim.scenarios import SCENARIOS, play


def played(scenario: str, seed: int, hash_seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.sim", "--peers", "16", "--json"]
    answer = subprocess.run(
        [*command, "--seed", str(seed), "--scenario", scenario],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["restart", "cut", "storm"])
def test_a_seed_replays_exactly_in_a_process_that_hashes_otherwise(scenario: str) -> None:
    first, second = (played(scenario, 3, hash_seed) for hash_seed in (1, 2))
    assert first == second
    assert len(first["course"]) == 32


@pytest.mark.parametrize("scenario", sorted(SCENARIOS.keys() - {"absence"}))
def test_a_seed_replays_exactly_in_one_process(scenario: str) -> None:
    assert play(scenario, 8, 1) == play(scenario, 8, 1)


def test_another_seed_is_another_course() -> None:
    assert play("quiet", 8, 1).course != play("quiet", 8, 2).course
