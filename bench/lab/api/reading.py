"""What the page reads of experiments, beside what `queries` has; plain functions that block."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, func, select

from bench.lab.experiments import queries, tables
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.status import Status

MAX_ROWS = 10_000
"""In one answer; more come with the next `offset`, or as an export."""

CPU = "cpu_percent"

_SHOWN = [tables.experiments.c[field.name] for field in fields(Experiment)]


def page(
    connection: Connection,
    states: Sequence[Status],
    limit: int | None,
    offset: int,
    *,
    newest: bool,
) -> tuple[list[Experiment], int]:
    """Return some of the experiments in these states, and how many there are; none means all."""
    known = tables.experiments.c
    chosen = known.status.in_(states or list(Status))
    count = connection.execute(select(func.count()).where(chosen)).scalar_one()
    order = known.number.desc() if newest else known.number
    query = select(*_SHOWN).where(chosen).order_by(order).limit(limit).offset(offset)
    found = connection.execute(query).mappings()
    return [Experiment(**{**row, "status": Status(row["status"])}) for row in found], count


def rows(
    connection: Connection, series: str, exp_id: str, limit: int, offset: int
) -> list[dict[str, Any]]:
    """Return rows of one of an experiment's series, in the order they were kept.

    Raises:
        NoSuchExperiment: there is none with this id.
    """
    queries.get(connection, exp_id)
    query = queries.series(series, [exp_id]).limit(limit).offset(offset)
    return [dict(row) for row in connection.execute(query).mappings()]


def events(connection: Connection, exp_id: str) -> list[tuple[float, str, str]]:
    """Return when, what and with which words something happened, in that order."""
    c = tables.events.c
    query = select(c.timestamp, c.name, c.value).where(c.exp_id == exp_id).order_by(c.number)
    return [(row.timestamp, row.name, row.value) for row in connection.execute(query)]


def cpu(connection: Connection, exp_id: str, since: float) -> list[tuple[float, str, float]]:
    """Return when, of which node, and how many per cent of all its processors were busy."""
    c = tables.telemetry.c
    query = select(c.timestamp, c.node, c.value).where(
        c.exp_id == exp_id, c.metric == CPU, c.subsystem == "", c.timestamp >= since
    )
    return [(row.timestamp, row.node, row.value) for row in connection.execute(query)]
