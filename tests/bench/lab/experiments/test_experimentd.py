"""The daemon's command with real load hosts, and what they send requests to."""

import socket
from pathlib import Path
from typing import Any

import pytest

from bench.lab.experiments import queries
from bench.lab.experiments.database import database_url
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.status import ENDED, Status
from bench.lab.experiments.store import open_store
from bench.lab.testing import eventually
from overlay.testing_ports import free_port

TIMEOUT_S = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def target(answering: str) -> str:
    return f"{answering}/"


async def ended(experiments: Experiments, exp_id: str) -> Experiment:
    async def look() -> Experiment | None:
        found = await experiments.get(exp_id)
        return found if found.status in ENDED else None

    return await eventually(look, TIMEOUT_S)


def state_dir(daemons: Any) -> Path:
    return Path(daemons.environment["MYXO_STATE_DIR"])


async def test_load_hosts_of_a_network_send_what_was_submitted(daemons: Any, target: str) -> None:
    p2p, metrics = free_port(), free_port()
    founder = daemons(
        "bootstrap", "--p2p-listen-addr", f"127.0.0.1:{p2p}", "--prom-listen-addr", f":{metrics}"
    )
    address = next(line for line in founder.printed().splitlines() if line.startswith("/ip4/"))
    daemons(
        *("myxo", "lab", "host", "--bootstrap", address, "--hostname", "exphost"),
        *("--p2p-listen-addr", f"127.0.0.1:{free_port()}"),
    )
    daemons("myxo", "lab", "experimentd", "--bootstrap", address, "--logging", "DEBUG")
    async with open_store(database_url("", {}, state_dir(daemons))) as store:
        experiments = Experiments(store)
        lines = [f"spawn exphost {target} 2", f"rps exphost {target} 50", "sleep 2"]
        lines += [f"rps exphost {target} 0", f"close exphost {target}"]
        submitted = await experiments.submit({"instructions": "\n".join(lines)})
        found = await ended(experiments, submitted.exp_id)
        assert (found.status, found.error) == (Status.FINISHED, "")
        account = await experiments.show(submitted.exp_id)
        assert account.rows["traces"] == account.summary.requests >= 50
        assert account.summary.failed == 0
        assert account.rows["telemetry"] > 20
        traces = await store.read(lambda c: c.execute(queries.series("traces", [])).all())
        measured = await store.read(lambda c: c.execute(queries.series("telemetry", [])).all())
    assert {row.node for row in measured} == {socket.gethostname(), "exphost"}
    assert {(trace.host, trace.exp_id) for trace in traces} == {("exphost", submitted.exp_id)}


async def test_a_daemon_alone_is_its_own_load_host(daemons: Any, target: str) -> None:
    daemons("myxo", "lab", "experimentd", "--standalone", "--hostname", "h1")
    workload = {"service": target, "ticks": [20, 40], "arrival_pattern": "exponential"}
    configuration = {"duration": "2s", "interval": "1s", "workloads": [workload]}
    async with open_store(database_url("", {}, state_dir(daemons))) as store:
        experiments = Experiments(store)
        submitted = await experiments.submit({"configuration": configuration})
        long = await experiments.submit({"instructions": f"spawn h1 {target}\nsleep 600"})
        assert (await ended(experiments, submitted.exp_id)).error == ""
        account = await experiments.show(submitted.exp_id)
        assert account.experiment.status is Status.FINISHED
        assert account.summary.requests >= 10

        async def spawned() -> int:
            return (await experiments.show(long.exp_id)).rows["events"]

        await eventually(spawned, TIMEOUT_S)
        await experiments.cancel(long.exp_id)
        assert (await ended(experiments, long.exp_id)).status is Status.CANCELLED
