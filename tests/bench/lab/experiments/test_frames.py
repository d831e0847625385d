from pathlib import Path

import pytest
import trio

from bench.lab.errors import NoSuchExperiment
from bench.lab.experiments import queries
from bench.lab.experiments.database import database_url
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.experiments.store import open_store
from bench.lab.frames import events, experiments, metadata, nodeinfo, telemetry, traces
from bench.lab.request_trace import RequestTrace


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with two experiments, of which the second has data."""
    url = f"sqlite:///{tmp_path / 'e.sqlite3'}"

    async def fill() -> None:
        async with open_store(database_url(url, {}, tmp_path)) as store:
            for exp_id in ("e1", "e2"):
                body = {"instructions": "sleep 1", "exp_id": exp_id, "metadata": {"of": exp_id}}
                await Experiments(store).submit(body)
            trace = RequestTrace("c:0", "c", "s", "h1", 1.0, 1.0, 1.5, 200, "i", "e2")
            await store.write(queries.add_traces, [trace, trace._replace(exp_id="e1", done=3.0)])
            await store.write(queries.add_event, "e2", 1.0, "echo", "hello")
            await store.write(
                queries.add_telemetry, "e2", [TelemetryRow(1.0, "load_1", "", "h1", 0.5)]
            )
            await store.write(queries.add_facts, "e2", [NodeFact("h1", "cpus", "2")])

    trio.run(fill)
    return url


def test_experiments_are_rows(database: str) -> None:
    frame = experiments(database=database)
    assert list(frame.exp_id) == ["e1", "e2"]
    assert set(frame.status) == {"QUEUED"}


def test_series_are_those_of_the_experiments_asked_for(database: str) -> None:
    frame = traces("e2", database=database)
    assert list(frame.eval("done - created")) == [0.5]
    assert list(traces(database=database).exp_id) == ["e2", "e1"]
    assert telemetry("e2", database=database).value.mean() == 0.5
    assert list(events("e2", database=database).name) == ["echo"]
    assert list(nodeinfo("e2", database=database).info_value) == ["2"]
    assert len(metadata(database=database)) == 2


def test_a_series_without_rows_has_its_columns(database: str) -> None:
    frame = events("e1", database=database)
    assert len(frame) == 0
    assert {"exp_id", "timestamp", "name", "value"} == set(frame.columns)


def test_a_slip_in_an_id_is_an_error(database: str) -> None:
    with pytest.raises(NoSuchExperiment):
        traces("e9", database=database)
