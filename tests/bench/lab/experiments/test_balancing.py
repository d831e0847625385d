"""Experiments with a policy, on a real network with two instances of a service."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench import backend
from bench.lab.experiments.database import database_url
from bench.lab.experiments.store import open_store
from bench.lab.experiments.tables import traces
from bench.network import Network, environment, network
from bench.starting import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SERVICE = "spread"
RATE = 40


@pytest.fixture(scope="module")
def running() -> Iterator[Network]:
    """A network whose daemon of experiments sends load through its proxy."""
    with network("process") as made, experimentd(made):
        conf = made.folder / "conf.json"
        conf.write_text(json.dumps({"min_instances": 2, "policy": "random"}))
        program = f"exec {backend.program()} $SERVICE_PORT"
        made.registry_cli("add", "--conf", str(conf), "--process", program, SERVICE)
        yield made


@contextmanager
def experimentd(made: Network) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.lab", "experimentd", "--standalone"]
    proxy = {"MYXO_PROXY": f"127.0.0.1:{made.proxy_port}"}
    with started(command, log=made.folder / "d.log", environment=environment(made.folder) | proxy):
        yield


def submitted(made: Network, policy: str, service: str = SERVICE) -> dict[str, Any]:
    """Run an experiment to its end; return what is said of it."""
    workload = {"service": service, "ticks": [RATE, RATE], "clients_per_host": 1}
    configuration = {"duration": 2, "interval": 1, "policy": policy, "workloads": [workload]}
    lab = [sys.executable, "-m", "bench.lab", "experiments"]
    done = subprocess.run(
        [*lab, "submit", "--wait", "-"],
        input=json.dumps({"configuration": configuration}),
        env=environment(made.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    exp_id = done.stdout.strip()
    shown = subprocess.run(
        [*lab, "show", "--json", exp_id],
        env=environment(made.folder),
        capture_output=True,
        text=True,
        check=True,
    )
    account: dict[str, Any] = json.loads(shown.stdout)
    return account


def definition(made: Network) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(made.registry_cli("get", "--json", SERVICE))
    return {name: value for name, value in spec.items() if name not in {"revision", "created_at"}}


async def servers(made: Network, exp_id: str) -> Counter[str]:
    """Return how many requests of an experiment each instance answered."""
    async with open_store(database_url("", os.environ, made.folder / "state")) as store:
        query = traces.select().where(traces.c.exp_id == exp_id)
        rows = await store.read(lambda connection: list(connection.execute(query)))
    return Counter(row.server for row in rows)


async def test_requests_are_spread_by_the_policy_and_the_definition_is_as_before(
    running: Network,
) -> None:
    before = definition(running)
    shown = submitted(running, "round_robin")
    assert (shown["status"], shown["error"]) == ("FINISHED", "")
    assert shown["configuration"]["policy"] == "round_robin"
    assert shown["summary"]["failed"] == 0
    shares = (await servers(running, shown["exp_id"])).values()
    assert len(shares) == 2
    assert max(shares) - min(shares) <= 1, "each in turn"
    assert definition(running) == before


def test_a_service_that_is_not_there_fails_its_experiment_alone(running: Network) -> None:
    shown = submitted(running, "random", "nowhere")
    assert shown["status"] == "FAILED"
    assert "nowhere" in shown["error"]
    assert "registry-cli list" in shown["error"]
    assert submitted(running, "random")["status"] == "FINISHED"
