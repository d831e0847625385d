"""What experiments brought forth, as pandas DataFrames for notebooks and scripts.

    from bench.lab.frames import experiments, traces, telemetry

    runs = experiments()
    latencies = traces(*runs.exp_id).eval("done - created")

Each takes ids of experiments, and means all if none is given. The database is the one that
`myxo lab experiments` uses: `database` as a URL, else the settings' or the variables' (`DB_TYPE`,
`MYSQL_…`), else the file in the state directory. Times are seconds since 1970, as in the database.
"""

from dataclasses import asdict, fields

import pandas as pd

from bench.lab.experiments import queries
from bench.lab.experiments.database import open_engine
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.settings import chosen_database


def experiments(*, database: str | None = None) -> pd.DataFrame:
    """Return a row for each experiment, the oldest first: id, name, creator, times, status."""
    engine = open_engine(chosen_database(database))
    try:
        with engine.connect() as connection:
            found = [asdict(experiment) for experiment in queries.listed(connection)]
    finally:
        engine.dispose()
    return pd.DataFrame(found, columns=[field.name for field in fields(Experiment)])


def traces(*exp_ids: str, database: str | None = None) -> pd.DataFrame:
    """Return a row for each request: client, service, host, created, sent, done, status, server."""
    return _series("traces", exp_ids, database)


def telemetry(*exp_ids: str, database: str | None = None) -> pd.DataFrame:
    """Return a row for each measured value: timestamp, metric, subsystem, node, value."""
    return _series("telemetry", exp_ids, database)


def events(*exp_ids: str, database: str | None = None) -> pd.DataFrame:
    """Return a row for each thing that happened: timestamp, name, value."""
    return _series("events", exp_ids, database)


def nodeinfo(*exp_ids: str, database: str | None = None) -> pd.DataFrame:
    """Return a row for each fact about a machine: node, info_key, info_value."""
    return _series("nodeinfo", exp_ids, database)


def metadata(*exp_ids: str, database: str | None = None) -> pd.DataFrame:
    """Return a row for each experiment that something was noted down about: data, as JSON."""
    return _series("metadata", exp_ids, database)


def _series(name: str, exp_ids: tuple[str, ...], database: str | None) -> pd.DataFrame:
    engine = open_engine(chosen_database(database))
    try:
        with engine.connect() as connection:
            for exp_id in exp_ids:
                queries.get(connection, exp_id)  # a slip in an id is an error, and not no rows
            found = connection.execute(queries.series(name, exp_ids))
            return pd.DataFrame(found.all(), columns=list(found.keys()))
    finally:
        engine.dispose()
