"""Routes of what experiments brought forth: rows, charts, and files to take away."""

import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any
from zipfile import ZIP_DEFLATED, ZipFile

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from bench.lab.api import asked, charts, reading
from bench.lab.api.context import InContext
from bench.lab.experiments import queries
from bench.lab.experiments.export import Format, export
from bench.lab.experiments.records import Experiment, Task
from bench.lab.experiments.seen import SeenRequests

PIECE_BYTES = 256 * 1024

router = APIRouter(tags=["data"])


class Series(StrEnum):
    """What there are rows of."""

    TRACES = "traces"
    TELEMETRY = "telemetry"
    EVENTS = "events"
    NODEINFO = "nodeinfo"


@router.get("/experiments/{exp_id}/charts")
async def chart(
    context: InContext,
    exp_id: str,
    since: Annotated[float, Query(ge=0, le=1e9, description="Seconds after its start.")] = 0,
    interval: Annotated[float | None, Query(gt=0, le=1e6, description="Seconds.")] = None,
) -> dict[str, Any]:
    """Return an experiment over time, cut into intervals: rates a second, latencies in seconds.

    Of one that runs the intervals that are complete; ask again with `since` for what comes next.
    """
    return await context.store.read(_chart, exp_id, since, interval, time.time(), context.seen)


@router.get("/experiments/{exp_id}/export")
async def take_away(
    context: InContext,
    exp_id: str,
    form: Annotated[Format, Query(alias="format")] = Format.CSV,
) -> StreamingResponse:
    """Return a zip archive with all tables of an experiment, as CSV or Parquet."""
    archive, length = await context.store.read(_archive, exp_id, form)
    headers = {
        "Content-Length": str(length),
        "Content-Disposition": f'attachment; filename="{exp_id}-{form}.zip"',
    }
    return StreamingResponse(_pieces(archive), media_type="application/zip", headers=headers)


@router.get("/experiments/{exp_id}/{series}")
async def rows(
    context: InContext,
    exp_id: str,
    series: Series,
    limit: Annotated[int, Query(ge=1, le=reading.MAX_ROWS)] = 1000,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> list[dict[str, Any]]:
    """Return rows of a series, in the order in which they were kept."""
    return await context.store.read(reading.rows, series, exp_id, limit, offset)


def _chart(
    connection: Connection,
    exp_id: str,
    since: float,
    interval: float | None,
    now: float,
    seen: SeenRequests,
) -> dict[str, Any]:
    experiment = queries.get(connection, exp_id)
    task = queries.task(connection, exp_id)
    start = experiment.start if experiment.start is not None else now
    interval = interval or charts.nice_interval(_length(experiment, task, now))
    span = charts.span(start, now, experiment.end, interval, since)
    requests = charts.requests_in(span, seen.look(connection, experiment).rows)
    changes = asked.steps(reading.events(connection, exp_id), shared=task.configuration is not None)
    return {
        "status": experiment.status,
        "start": experiment.start,
        "interval": interval,
        "times": [float(offset) for offset in span.offsets],
        "asked": asked.asked_in(span, changes),
        "answered": requests.answered,
        "failed": requests.failed,
        "latencies": requests.latencies,
        "cpu": charts.cpu_in(span, reading.cpu(connection, exp_id, span.since)),
    }


def _length(experiment: Experiment, task: Task, now: float) -> float:
    """Return how long an experiment is to take, or took, or has taken so far; seconds."""
    if task.configuration is not None:
        return float(task.configuration["duration"])
    if experiment.start is None:
        return 0.0
    return (experiment.end if experiment.end is not None else now) - experiment.start


def _archive(connection: Connection, exp_id: str, form: Format) -> tuple[IO[bytes], int]:
    """Return an open archive that is in no folder, so that it is gone when it is closed."""
    queries.get(connection, exp_id)
    archive = tempfile.TemporaryFile(prefix="myxo-export-")  # noqa: SIM115  (`_pieces` closes it)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="myxo-export-") as folder,
            ZipFile(archive, "w", ZIP_DEFLATED) as packed,
        ):
            for path in export(connection, exp_id, form, Path(folder)):
                packed.write(path, f"{exp_id}/{path.name}")
        length = archive.tell()
        archive.seek(0)
    except BaseException:
        archive.close()
        raise
    return archive, length


def _pieces(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while piece := archive.read(PIECE_BYTES):
            yield piece
