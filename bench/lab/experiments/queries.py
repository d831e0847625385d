"""What is asked of the database, each in a transaction that its caller has begun.

Plain functions of a connection, which block; `Store` calls them without blocking, notebooks do as
they are. Changes of state are made where `status.TRANSITIONS` has them, by a condition in the
statement itself, so that two processes never both make one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bench.lab.errors import IdTaken, NoSuchExperiment, QueueFull, WrongState
from bench.lab.experiments import tables, trace_rows
from bench.lab.experiments.records import Experiment, NodeFact, Task, TelemetryRow
from bench.lab.experiments.status import Change, Status, sources, target
from bench.lab.experiments.summary import Numbers
from bench.lab.request_trace import RequestTrace

MAX_QUEUED = 10_000
"""Experiments that wait; whoever queues more has a loop that went wrong."""

STREAMED = 10_000
"""Rows in memory at once where all are looked through."""

_KNOWN = tables.experiments.c
_SHOWN = (
    _KNOWN.exp_id,
    _KNOWN.name,
    _KNOWN.creator,
    _KNOWN.created,
    _KNOWN.status,
    _KNOWN.start,
    _KNOWN.end,
    _KNOWN.error,
)


def add(connection: Connection, experiment: Experiment, task: Task) -> None:
    """Put an experiment at the end of the queue; or keep it, if it has ended before it began.

    Raises:
        IdTaken: there is one with this id.
        QueueFull: too many wait.
    """
    if experiment.status is Status.QUEUED:
        _refuse_if_full(connection)
    row = {
        "exp_id": experiment.exp_id,
        "name": experiment.name,
        "creator": experiment.creator,
        "created": experiment.created,
        "start": experiment.start,
        "end": experiment.end,
        "status": experiment.status,
        "error": experiment.error,
        "runner": "",
        "cancelling": False,
    }
    try:
        connection.execute(insert(tables.experiments), row)
    except IntegrityError as exc:
        raise IdTaken(f"there is an experiment {experiment.exp_id} already") from exc
    configuration = None if task.configuration is None else json.dumps(task.configuration)
    connection.execute(
        insert(tables.instructions),
        {
            "exp_id": experiment.exp_id,
            "instructions": task.instructions,
            "configuration": configuration,
        },
    )
    if task.metadata:
        connection.execute(
            insert(tables.metadata),
            {"exp_id": experiment.exp_id, "data": json.dumps(task.metadata)},
        )


def _refuse_if_full(connection: Connection) -> None:
    waiting = select(func.count()).where(_KNOWN.status == Status.QUEUED)
    if connection.execute(waiting).scalar_one() >= MAX_QUEUED:
        raise QueueFull(
            f"{MAX_QUEUED} experiments wait already; cancel some, or wait until some have run"
        )


def get(connection: Connection, exp_id: str) -> Experiment:
    """Return an experiment.

    Raises:
        NoSuchExperiment: there is none with this id.
    """
    row = connection.execute(select(*_SHOWN).where(_KNOWN.exp_id == exp_id)).first()
    if row is None:
        raise NoSuchExperiment(
            f"there is no experiment {exp_id!r}; `myxo lab experiments list` shows all"
        )
    return _experiment(row)


def listed(connection: Connection) -> list[Experiment]:
    """Return all experiments, the oldest first."""
    return [_experiment(row) for row in connection.execute(select(*_SHOWN).order_by(_KNOWN.number))]


def task(connection: Connection, exp_id: str) -> Task:
    """Return what an experiment is to do."""
    c = tables.instructions.c
    row = connection.execute(
        select(c.instructions, c.configuration).where(c.exp_id == exp_id)
    ).one()
    configuration = None if row.configuration is None else json.loads(row.configuration)
    return Task(row.instructions, configuration, described(connection, exp_id))


def described(connection: Connection, exp_id: str) -> Mapping[str, Any]:
    """Return what people noted down about an experiment."""
    c = tables.metadata.c
    data = connection.execute(select(c.data).where(c.exp_id == exp_id)).scalar()
    noted: Mapping[str, Any] = json.loads(data) if data else {}
    return noted


def _experiment(row: Row[*tuple[Any, ...]]) -> Experiment:
    return Experiment(
        exp_id=row.exp_id,
        name=row.name,
        creator=row.creator,
        created=row.created,
        status=Status(row.status),
        start=row.start,
        end=row.end,
        error=row.error,
    )


def claim(connection: Connection, runner: str, now: float) -> Experiment | None:
    """Start the experiment that was queued first, as `runner`'s, and return it if there is one."""
    queued = select(_KNOWN.exp_id).where(_KNOWN.status == Status.QUEUED).order_by(_KNOWN.number)
    while (exp_id := connection.execute(queued.limit(1).with_for_update()).scalar()) is not None:
        if _change(connection, exp_id, Change.START, start=now, runner=runner):
            return get(connection, exp_id)
    return None


def end(connection: Connection, exp_id: str, change: Change, now: float, error: str = "") -> bool:
    """End an experiment; return False if it had ended already, or is gone."""
    return _change(connection, exp_id, change, end=now, error=error)


def fail_lost(connection: Connection, runner: str, now: float, error: str) -> list[str]:
    """Fail what `runner` was running when it died, and return which that is."""
    mine = select(_KNOWN.exp_id).where(_KNOWN.status == Status.RUNNING, _KNOWN.runner == runner)
    lost = list(connection.execute(mine).scalars())
    return [exp_id for exp_id in lost if end(connection, exp_id, Change.FAIL, now, error)]


def cancel(connection: Connection, exp_id: str, now: float) -> bool:
    """Cancel an experiment that waits, or have the one that runs it do so; True if it is done.

    Raises:
        NoSuchExperiment: there is none with this id.
        WrongState: it has ended.
    """
    found = get(connection, exp_id)
    if found.status is Status.QUEUED and _change(connection, exp_id, Change.CANCEL, end=now):
        return True
    asked = connection.execute(
        update(tables.experiments)
        .where(_KNOWN.exp_id == exp_id, _KNOWN.status == Status.RUNNING)
        .values(cancelling=True)
    )
    if not asked.rowcount:
        raise WrongState(f"experiment {exp_id} is {found.status}, and cannot be cancelled any more")
    return False


def to_cancel(connection: Connection, runner: str) -> list[str]:
    """Return which experiments that `runner` runs somebody wants cancelled."""
    asked = select(_KNOWN.exp_id).where(
        _KNOWN.status == Status.RUNNING, _KNOWN.runner == runner, _KNOWN.cancelling
    )
    return list(connection.execute(asked).scalars())


def remove(connection: Connection, exp_id: str) -> None:
    """Delete an experiment that does not run, with everything that belongs to it.

    Raises:
        NoSuchExperiment: there is none with this id.
        WrongState: it runs.
    """
    gone = connection.execute(
        delete(tables.experiments).where(_KNOWN.exp_id == exp_id, _KNOWN.status != Status.RUNNING)
    )
    if not gone.rowcount:
        found = get(connection, exp_id)
        raise WrongState(f"experiment {exp_id} is {found.status}; cancel it before you delete it")


def _change(connection: Connection, exp_id: str, change: Change, **values: Any) -> bool:
    changed = connection.execute(
        update(tables.experiments)
        .where(_KNOWN.exp_id == exp_id, _KNOWN.status.in_(sources(change)))
        .values(status=target(change), **values)
    )
    return changed.rowcount > 0


def add_traces(connection: Connection, traces: Sequence[RequestTrace]) -> None:
    """Keep traces; those of no experiment have an empty id."""
    trace_rows.insert(connection, traces)


def known(connection: Connection, exp_ids: Iterable[str]) -> set[str]:
    """Return which of these experiments there are."""
    found = select(_KNOWN.exp_id).where(_KNOWN.exp_id.in_(list(exp_ids)))
    return set(connection.execute(found).scalars())


def add_telemetry(connection: Connection, exp_id: str, rows: Iterable[TelemetryRow]) -> None:
    """Keep what was measured during an experiment."""
    values = [row._asdict() | {"exp_id": exp_id} for row in rows]
    if values:
        connection.execute(insert(tables.telemetry), values)


def add_facts(connection: Connection, exp_id: str, facts: Iterable[NodeFact]) -> None:
    """Keep what the machines of an experiment are."""
    rows = [
        {"exp_id": exp_id, "node": f.node, "info_key": f.key, "info_value": f.value} for f in facts
    ]
    if rows:
        connection.execute(insert(tables.nodeinfo), rows)


def add_event(connection: Connection, exp_id: str, timestamp: float, name: str, value: str) -> None:
    """Keep that something happened during an experiment."""
    row = {
        "exp_id": exp_id,
        "timestamp": timestamp,
        "name": name[: tables.MAX_NAME],
        "value": value,
    }
    connection.execute(insert(tables.events), row)


def series(name: str, exp_ids: Sequence[str]) -> Select[Any]:
    """Return how to ask for the rows of one of `tables.SERIES`, in the order they were kept.

    Without ids all rows are meant.
    """
    table = tables.SERIES[name]
    query = select(*(column for column in table.columns if column.name != "number"))
    query = query.order_by(table.c.get("number", table.c.exp_id))
    return query.where(table.c.exp_id.in_(exp_ids)) if exp_ids else query


def requests_after(connection: Connection, exp_id: str, number: int) -> tuple[int, Numbers]:
    """Return the requests of an experiment that were kept after the one of that number.

    Returns:
        The last one's number, and of each when it was due, when it ended, and its status.
    """
    c = tables.traces.c
    query = select(c.number, c.created, c.done, c.status)
    query = query.where(c.exp_id == exp_id, c.number > number).order_by(c.number)
    found = connection.execute(query, execution_options={"yield_per": STREAMED})
    parts = [np.empty((0, 4))]
    for rows in found.partitions():
        flat = np.fromiter(chain.from_iterable(rows), float, 4 * len(rows))
        parts.append(flat.reshape(-1, 4))
    fresh = np.concatenate(parts)
    return int(fresh[-1, 0]) if len(fresh) else number, fresh[:, 1:]


def requests_until(connection: Connection, exp_id: str, number: int) -> int:
    """Return how many requests of an experiment there are up to that number."""
    c = tables.traces.c
    query = select(func.count()).where(c.exp_id == exp_id, c.number <= number)
    return connection.execute(query).scalar_one()


def counts(connection: Connection, exp_id: str) -> Mapping[str, int]:
    """Return how many rows an experiment has of each of `tables.SERIES`."""
    return {
        name: connection.execute(
            select(func.count()).select_from(table).where(table.c.exp_id == exp_id)
        ).scalar_one()
        for name, table in tables.SERIES.items()
    }
