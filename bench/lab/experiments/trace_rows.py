"""Traces into their table by the quickest way that each database has.

They come by the thousand a second, and the general way spends most of its time on making parameters
of each row; here rows go to the driver as they are. Columns are in the order of `RequestTrace`'s
fields, of which the last is the experiment, empty for none.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bench.lab.request_trace import RequestTrace

_FIELDS = len(RequestTrace._fields)
_COLUMNS = f"traces ({', '.join(RequestTrace._fields)})"

_SQLITE = f"INSERT INTO {_COLUMNS} VALUES ({'?, ' * (_FIELDS - 1)}NULLIF(?, ''))"  # noqa: S608  (constants)
_MYSQL = f"INSERT INTO {_COLUMNS} VALUES ({', '.join(['%s'] * _FIELDS)})"  # noqa: S608
_POSTGRESQL = f"COPY {_COLUMNS} FROM STDIN"


def insert(connection: Connection, traces: Sequence[RequestTrace]) -> None:
    """Keep traces; raises what SQLAlchemy raises."""
    if not traces:
        return
    match connection.dialect.name:
        case "sqlite":
            connection.exec_driver_sql(_SQLITE, list(traces))  # a tuple would be one row
        case "postgresql":
            _copy(connection, _rows(traces))
        case _:  # whose driver makes one statement of many rows if each place is a bare %s
            connection.exec_driver_sql(_MYSQL, list(_rows(traces)))


def _rows(traces: Sequence[RequestTrace]) -> Iterable[tuple[Any, ...]]:
    return ((*trace[:-1], trace.exp_id or None) for trace in traces)


def _copy(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Stream rows into PostgreSQL, which takes four times as many like this."""
    import psycopg  # noqa: PLC0415  (it is here where there is a PostgreSQL)

    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor, cursor.copy(_POSTGRESQL) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as exc:
        raise DBAPIError.instance(_POSTGRESQL, None, exc, psycopg.Error) from exc
