"""`myxo lab report` on a real network: what it writes, and what it leaves."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import backend
from bench.network import Network, environment, network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVICE = "reported"
UNTIL_BUSY = "reactive:metric=cpu,up=0.01,down=0,cooldown_s=0,window_s=1,period_s=0.5,most=2"
"""Any use of the processors at all has it add an instance."""


@pytest.fixture(scope="module")
def running() -> Iterator[Network]:
    with network("process") as made:
        made.registry_cli("add", "--process", f"exec {backend.program()} $SERVICE_PORT", SERVICE)
        yield made


def command(running: Network, folder: Path, *flags: str) -> list[str]:
    proxy = f"127.0.0.1:{running.proxy_port}"
    lab = [sys.executable, "-m", "bench.lab", "report", "--proxy", proxy, "-o", str(folder)]
    return [*lab, *flags, SERVICE]


def definition(running: Network) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(running.registry_cli("get", "--json", SERVICE))
    return {name: value for name, value in spec.items() if name not in {"revision", "created_at"}}


def reported(running: Network, folder: Path, *flags: str) -> dict[str, Any]:
    """Run a comparison to its end; return what it said of each variant."""
    done = subprocess.run(
        command(running, folder, "--runs", "1", "--profile", "constant:20", "--json", *flags),
        env=environment(running.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {row["variant"]: row for row in json.loads(done.stdout)}


def test_variants_are_run_side_by_side_and_the_definition_is_as_before(
    running: Network, tmp_path: Path
) -> None:
    before = definition(running)
    flags = ["--policies", "peak_ewma,random", "--scaling", "kept:min_instances=2"]
    told = reported(running, tmp_path, *flags, "--duration", "3s")
    assert list(told) == ["peak_ewma, kept", "random, kept"]
    kept = told["random, kept"]
    assert kept["running_s"]["mean"] == pytest.approx(6, abs=0.5), "two, for three seconds"
    assert kept["starts"]["mean"] == kept["not_served"]["mean"] == 0
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["asked"] for row in rows}) == 1, "both had the same schedule"
    assert {row["instances"] for row in rows} == {"2"}
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert definition(running) == before


def test_a_reactive_scaling_adds_an_instance_under_load(running: Network, tmp_path: Path) -> None:
    told = reported(running, tmp_path, "--scaling", UNTIL_BUSY, "--duration", "15s")
    assert told["reactive"]["starts"]["mean"] == 1, "the one that is there goes on"
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["most"] == "2"


def test_one_that_is_interrupted_makes_no_report_and_leaves_the_definition_as_before(
    running: Network, tmp_path: Path
) -> None:
    before = definition(running)
    flags = ["--policies", "random", "--duration", "10m", "--profile", "constant:20"]
    with subprocess.Popen(
        command(running, tmp_path, *flags), env=environment(running.folder), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        while b"run 1 of" not in process.stderr.readline():
            assert process.poll() is None
        traces = tmp_path / f"traces-{SERVICE}-variant1-run1.csv"
        while not (traces.exists() and traces.read_text().count("\n") > 1):  # load is under way
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 1, said
    assert "ended early" in said
    assert not (tmp_path / "report.html").exists()
    assert definition(running) == before


def test_a_service_that_is_not_there_is_said(running: Network, tmp_path: Path) -> None:
    done = subprocess.run(
        [*command(running, tmp_path)[:-1], "nowhere"],
        env=environment(running.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
