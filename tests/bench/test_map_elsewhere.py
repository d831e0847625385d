"""The benchmark of maps on machines other than its own: hosts of the lab."""

import json
import subprocess
import sys

import pytest

from bench.netlab.testing import MakeLab
from bench.starting import CHECKOUT
from tests.e2e.steps import join_line

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 400.0
COMMAND = ["python", "-m", "bench.map", "--quick", "--sizes", "10,20", "--values", "5"]
COMMAND += ["--runs", "1", "--json"]


def test_it_maps_on_a_network_that_it_joins(lab: MakeLab) -> None:
    there, here = lab(hosts=2, preset="lan").hosts
    line = join_line(there.start(["myxo", "up", "--runtime", "process"]).printed())
    there.run(["myxo", "allow", here.run(["myxo", "key", "show"]).stdout.split()[0]])
    done = here.run(
        [*COMMAND, "--bootstrap", line[2]],
        timeout_s=TIMEOUT_S,
        environment={"MYXO_PSK": line[line.index("--psk") + 1]},
    )
    said = json.loads(done.stdout)
    assert said["speedup"] > 0
    assert set(said["sizes_s"]) == {"10", "20"}
    assert "noop_us" not in said


def test_over_links_each_distance_is_measured_beside_the_loop() -> None:
    done = subprocess.run(
        [sys.executable, *COMMAND[1:], "--links", "40"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {tuple(ways) for ways in said["sizes_s"].values()} == {("loop", "0 ms", "40 ms")}
    # What is asked of the far workers and comes back takes a way there and back at least.
    assert all(taken["40 ms"] > 0.04 for taken in said["sizes_s"].values())
    assert set(said["penalty_value_40ms_s"]) == {"5"}
