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
from bench.netlab.testing import within
from bench.network import Network, environment, network
from bench.starting import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SERVICE = "spread"
RATE = 40
PATIENCE_S = 90.0


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


def lab(made: Network, *words: str, body: object = None) -> str:
    """Do a command of `myxo lab experiments`; return what it printed, whether it failed or not."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.lab", "experiments", *words],
        input=json.dumps(body),
        env=environment(made.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def experiment(policy: str, service: str = SERVICE, seconds: int = 2) -> dict[str, Any]:
    workload = {"service": service, "ticks": [RATE] * seconds, "clients_per_host": 1}
    load = {"duration": seconds, "interval": 1, "workloads": [workload]}
    return {"configuration": load | {"policy": policy}}


def shown(made: Network, exp_id: str) -> dict[str, Any]:
    account: dict[str, Any] = json.loads(lab(made, "show", "--json", exp_id))
    return account


def submitted(made: Network, policy: str, service: str = SERVICE) -> dict[str, Any]:
    """Run an experiment to its end; return what is said of it."""
    body = experiment(policy, service)
    return shown(made, lab(made, "submit", "--wait", "-", body=body))


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
    found = submitted(running, "round_robin")
    assert (found["status"], found["error"]) == ("FINISHED", "")
    assert found["configuration"]["policy"] == "round_robin"
    assert found["summary"]["failed"] == 0
    shares = (await servers(running, found["exp_id"])).values()
    assert len(shares) == 2
    assert max(shares) - min(shares) <= 1, "each in turn"
    assert definition(running) == before


def test_a_service_that_is_not_there_fails_its_experiment_alone(running: Network) -> None:
    found = submitted(running, "random", "nowhere")
    assert found["status"] == "FAILED"
    assert "nowhere" in found["error"]
    assert "registry-cli list" in found["error"]
    assert submitted(running, "random")["status"] == "FINISHED"


def test_one_that_is_cancelled_leaves_the_definition_as_before(running: Network) -> None:
    before = definition(running)
    exp_id = lab(running, "submit", "-", body=experiment("maglev", seconds=600))

    def policy() -> str:
        name: str = definition(running)["spec"]["policy"]["name"]
        return name

    within(PATIENCE_S, lambda: policy() == "maglev", policy)
    lab(running, "cancel", exp_id)
    within(PATIENCE_S, lambda: shown(running, exp_id)["status"] == "CANCELLED", policy)
    assert definition(running) == before
