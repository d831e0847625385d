"""Which database experiments are kept in, and how it is opened.

SQLite in the state directory, unless a URL names another, or the variables that Galileo reads do:
`DB_TYPE` (`sqlite` or `mysql`) and `MYSQL_HOST`, `MYSQL_PORT`, `MYSQL_USER`, `MYSQL_PASSWORD`,
`MYSQL_DB`.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from bench.lab.errors import BadInput, StoreFailed
from bench.lab.experiments.tables import SCHEMA

CONNECTIONS = 4
"""That a process has at most, and so many statements at once: one writes, the rest read."""

BUSY_TIMEOUT_S = 30.0
"""How long a writer of SQLite waits for another, which holds it for one batch."""

MYSQL_PORT = 3307
"""Galileo's default, which leaves 3306 to a server that is there anyway."""

_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}

_WRITES = "myxo_writes"


def database_url(given: str, environ: Mapping[str, str], state_dir: Path) -> URL:
    """Return where experiments are kept.

    Args:
        given: a URL such as `postgresql://user:password@host/name`; empty for none.
        environ: may have `DB_TYPE` and `MYSQL_*`.
        state_dir: where the SQLite file is if nothing else is named.

    Raises:
        BadInput: it names no database that is known here.
    """
    if given:
        return _from_text(given)
    kind = environ.get("DB_TYPE", "sqlite").lower()
    if kind == "sqlite":
        return URL.create("sqlite", database=str(state_dir / "experiments.sqlite3"))
    if kind != "mysql":
        raise BadInput(f"DB_TYPE is {kind!r}; it can be sqlite or mysql, and --database takes URLs")
    return _from_galileo(environ)


def _from_text(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as exc:
        raise BadInput(
            f"{text!r} is no URL of a database; such as sqlite:///experiments.sqlite3, "
            "postgresql://USER:PASSWORD@HOST/NAME or mysql://USER:PASSWORD@HOST/NAME"
        ) from exc
    kind = url.get_backend_name()
    if kind not in _DRIVERS:
        raise BadInput(
            f"databases of kind {kind!r} are not known; use one of {', '.join(_DRIVERS)}"
        )
    return _with_charset(url.set(drivername=_DRIVERS[kind]))


def _from_galileo(environ: Mapping[str, str]) -> URL:
    port = environ.get("MYSQL_PORT", str(MYSQL_PORT))
    if not port.isascii() or not port.isdigit():
        raise BadInput(f"MYSQL_PORT is {port!r}, and must be a number")
    if "MYSQL_DB" not in environ:
        raise BadInput("DB_TYPE is mysql, so MYSQL_DB must name the database")
    return _with_charset(
        URL.create(
            _DRIVERS["mysql"],
            username=environ.get("MYSQL_USER"),
            password=environ.get("MYSQL_PASSWORD"),
            host=environ.get("MYSQL_HOST", "localhost"),
            port=int(port),
            database=environ["MYSQL_DB"],
        )
    )


def _with_charset(url: URL) -> URL:
    if url.get_backend_name() == "mysql" and "charset" not in url.query:
        return url.update_query_dict({"charset": "utf8mb4"})
    return url


def open_engine(url: URL) -> Engine:
    """Return the opened database, with its tables made where they were not; blocks.

    Raises:
        StoreFailed: it does not answer, or has other tables by those names.
    """
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        engine = create_engine(
            url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True, hide_parameters=True
        )
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        _make_tables(engine)
    except (DBAPIError, NoSuchModuleError, OSError) as exc:
        raise StoreFailed(f"the database {shown(url)} cannot be used: {reason(exc)}") from exc
    return engine


def writing(engine: Engine) -> Engine:
    """Return the same database for transactions that write, which have to say so to SQLite.

    One that begins to write after it has read is refused if another has written meanwhile.
    """
    return engine.execution_options(**{_WRITES: True})


def shown(url: URL) -> str:
    """Return a URL for people to read, without its password."""
    return url.render_as_string(hide_password=True)


def reason(exc: Exception) -> str:
    """Return what the database itself said."""
    return str(exc.orig if isinstance(exc, DBAPIError) else exc)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, record: Any) -> None:
        del record
        connection.isolation_level = None  # the library begins transactions, below, and not Python
        for pragma in (
            f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
            "journal_mode = WAL",
            "synchronous = NORMAL",  # a kill loses nothing, a power cut the last commits
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_tables(engine: Engine) -> None:
    try:
        SCHEMA.create_all(writing(engine))
    except DBAPIError:
        SCHEMA.create_all(writing(engine))  # another process made them in between
    found = inspect(engine)
    for table in SCHEMA.sorted_tables:
        lacking = {c.name for c in table.columns} - {
            str(c["name"]) for c in found.get_columns(table.name)
        }
        if lacking:
            raise StoreFailed(
                f"the database {shown(engine.url)} has a table {table.name} without "
                f"{', '.join(sorted(lacking))}, which Myxo did not make; name an empty database"
            )
