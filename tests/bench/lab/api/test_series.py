"""Rows, charts and files of experiments over HTTP."""

import csv
import io
import json
import zipfile
from http import HTTPStatus
from typing import NamedTuple

import httpx
import pyarrow.parquet as pq
import pytest

from bench.lab.experiments import queries
from bench.lab.experiments.records import Experiment, Task, TelemetryRow
from bench.lab.experiments.status import Change
from bench.lab.experiments.store import SqlTraceSink, Store
from bench.lab.request_trace import FAILED, RequestTrace

START = 1000.0
CONFIGURATION = {
    "duration": 10.0,
    "interval": 5.0,
    "workloads": [{"service": "squeezenet", "ticks": [2.0, 1.0]}],
}


class Run(NamedTuple):
    """An experiment that ran for ten seconds, with a client of the API that has it."""

    exp_id: str
    api: httpx.AsyncClient


@pytest.fixture
async def ended(api: httpx.AsyncClient, store: Store) -> Run:
    exp_id = "ten"
    task = Task(None, CONFIGURATION)
    await store.write(queries.add, Experiment(exp_id, "ten", "me", START - 1), task)
    await store.write(queries.claim, "daemon", START)
    for second, text in ((0, ".* squeezenet 2"), (5, ".* squeezenet 1")):
        await store.write(queries.add_event, exp_id, START + second, "rps", text)
    due = [number / 2 for number in range(10)] + [5.0, 6.0, 7.0, 8.0, 9.0]
    await SqlTraceSink(store).write(
        [
            RequestTrace(
                f"h1:squeezenet:0:{number}",
                "h1:squeezenet:0",
                "squeezenet",
                "h1",
                START + at,
                START + at,
                START + at + 0.25,
                FAILED if number == 0 else 200,
                "",
                exp_id,
            )
            for number, at in enumerate(due)
        ]
    )
    rows = [TelemetryRow(START + 0.5, "cpu_percent", part, "h1", 40.0) for part in ("", "cpu0")]
    await store.write(queries.add_telemetry, exp_id, rows)
    await store.write(queries.end, exp_id, Change.FINISH, START + 10)
    return Run(exp_id, api)


async def test_a_chart_shows_what_was_asked_and_what_was_answered(ended: Run) -> None:
    found = (await ended.api.get(f"/experiments/{ended.exp_id}/charts?interval=5")).json()
    assert found["times"] == [0, 5]
    assert found["asked"] == [2, 1]
    assert found["answered"] == [1.8, 1]
    assert found["failed"] == [0.2, 0]
    assert found["latencies"]["p99"] == pytest.approx([0.25, 0.25])
    assert found["cpu"] == {"h1": [40, None]}
    assert (found["status"], found["start"]) == ("FINISHED", START)


async def test_only_what_is_new_can_be_asked_for(ended: Run) -> None:
    path = f"/experiments/{ended.exp_id}/charts"
    found = (await ended.api.get(path, params={"interval": 5, "since": 5})).json()
    assert (found["times"], found["asked"], found["answered"]) == ([5], [1], [1])
    assert (await ended.api.get(path, params={"since": 11})).json()["times"] == []
    wrong = await ended.api.get(path, params={"since": "nan"})
    assert wrong.status_code == HTTPStatus.BAD_REQUEST


async def test_rows_come_in_pages(ended: Run) -> None:
    path = f"/experiments/{ended.exp_id}/traces"
    rows = (await ended.api.get(path, params={"limit": 2, "offset": 1})).json()
    assert [row["request_id"] for row in rows] == ["h1:squeezenet:0:1", "h1:squeezenet:0:2"]
    assert len((await ended.api.get(path)).json()) == 15
    wrong = await ended.api.get(path, params={"limit": 10**9})
    assert wrong.status_code == HTTPStatus.BAD_REQUEST
    events = (await ended.api.get(f"/experiments/{ended.exp_id}/events")).json()
    assert [event["name"] for event in events] == ["rps", "rps"]


async def test_what_is_no_series_is_refused(ended: Run) -> None:
    answer = await ended.api.get(f"/experiments/{ended.exp_id}/secrets")
    assert answer.status_code == HTTPStatus.BAD_REQUEST


async def test_an_experiment_can_be_taken_away_as_csv(ended: Run) -> None:
    answer = await ended.api.get(f"/experiments/{ended.exp_id}/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="ten-csv.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        traces = list(csv.DictReader(io.StringIO(archive.read("ten/traces.csv").decode())))
        described = json.loads(archive.read("ten/experiment.json"))
    assert len(traces) == 15
    assert float(traces[1]["created"]) == START + 0.5
    assert described["name"] == "ten"


async def test_and_as_parquet(ended: Run) -> None:
    answer = await ended.api.get(f"/experiments/{ended.exp_id}/export?format=parquet")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        table = pq.read_table(io.BytesIO(archive.read("ten/telemetry.parquet")))
    assert table.column("value").to_pylist() == [40, 40]
    wrong = await ended.api.get(f"/experiments/{ended.exp_id}/export?format=pdf")
    assert wrong.status_code == HTTPStatus.BAD_REQUEST
