import asyncio
import csv
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.lab.errors import BadInput, NoSuchExperiment, QueueFull
from bench.lab.experiments import queries
from bench.lab.experiments.database import database_url
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.export import Format
from bench.lab.experiments.records import TelemetryRow
from bench.lab.experiments.status import Status
from bench.lab.experiments.store import Store, open_store
from bench.lab.request_trace import RequestTrace

NOON = 1_795_953_600.0  # 29 November 2026, 12:00 UTC
BODY = {"instructions": "sleep 1"}
TRACE = RequestTrace("h1:s:0:0", "h1:s:0", "s", "h1", 1.0, 1.0, 1.5, 200, "é,\n\"'", "e1")


@pytest.fixture
def experiments(store: Store) -> Experiments:
    return Experiments(store, lambda: NOON, random.Random(1))


async def test_id_name_and_creator_are_made_where_they_are_not_given(
    experiments: Experiments,
) -> None:
    submitted = await experiments.submit(BODY)
    assert submitted.exp_id.startswith("202611291200-")
    assert len(submitted.exp_id) == 17
    assert submitted.name == submitted.exp_id
    assert submitted.creator
    assert submitted.status is Status.QUEUED
    assert await experiments.get(submitted.exp_id) == submitted


async def test_ids_that_are_made_do_not_meet(store: Store) -> None:
    submitted = [
        await Experiments(store, lambda: NOON, random.Random(1)).submit(BODY) for _ in range(3)
    ]
    assert len({e.exp_id for e in submitted}) == 3


async def test_a_queue_that_is_full_takes_no_more(
    experiments: Experiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_QUEUED", 1)
    await experiments.submit(BODY)
    with pytest.raises(QueueFull, match="1 experiments wait already"):
        await experiments.submit(BODY)


async def test_what_was_rejected_is_found_with_its_reason(experiments: Experiments) -> None:
    rejected = await experiments.reject("{\0\ud800", "no JSON")
    account = await experiments.show(rejected.exp_id)
    assert account.experiment.error == "no JSON"
    assert account.experiment.status is Status.FAILED
    assert account.task.instructions is not None
    assert account.task.instructions.startswith("{")


async def filled(store: Store) -> Experiments:
    experiments = Experiments(store)
    await experiments.submit(BODY | {"exp_id": "e1", "metadata": {"note": "ö"}})
    await store.write(queries.add_traces, [TRACE, TRACE._replace(request_id="h1:s:0:1", done=2.0)])
    await store.write(queries.add_telemetry, "e1", [TelemetryRow(1.0, "load_1", "", "h1", 0.5)])
    return experiments


async def test_an_experiment_is_exported_to_csv(store: Store, tmp_path: Path) -> None:
    files = await (await filled(store)).export("e1", Format.CSV, tmp_path / "out")
    assert [path.name for path in files] == [
        "experiment.json",
        "traces.csv",
        "telemetry.csv",
        "events.csv",
        "nodeinfo.csv",
    ]
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    described = json.loads(files[0].read_text())
    assert (described["exp_id"], described["metadata"]) == ("e1", {"note": "ö"})
    with files[1].open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["server"] == TRACE.server
    assert float(second["done"]) == 2.0


async def test_an_experiment_is_exported_to_parquet(store: Store, tmp_path: Path) -> None:
    files = await (await filled(store)).export("e1", Format.PARQUET, tmp_path)
    table = pq.read_table(files[1])
    assert table.column("done").to_pylist() == [1.5, 2.0]
    assert table.column("status").to_pylist() == [200, 200]
    assert table.column("server").to_pylist() == [TRACE.server] * 2
    assert pq.read_table(files[3]).num_rows == 0


async def test_export_says_what_cannot_be_done(store: Store, tmp_path: Path) -> None:
    experiments = await filled(store)
    with pytest.raises(NoSuchExperiment):
        await experiments.export("e9", Format.CSV, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        await experiments.export("e1", Format.CSV, tmp_path / "file")


async def test_experiments_are_compared_in_the_order_asked_for(store: Store) -> None:
    experiments = await filled(store)
    await experiments.submit(BODY | {"exp_id": "e0"})
    none, some = await experiments.compare(["e0", "e1"])
    assert none.summary.requests == 0
    assert (some.summary.requests, some.summary.mean) == (2, 0.75)


def test_it_works_under_asyncio_too(tmp_path: Path) -> None:
    async def main() -> str:
        async with open_store(database_url("", {}, tmp_path)) as store:
            return (await Experiments(store).submit(BODY)).exp_id

    assert asyncio.run(main())
