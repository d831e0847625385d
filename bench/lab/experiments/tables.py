"""The tables, the same in SQLite, PostgreSQL, MySQL and MariaDB.

Names and columns are Galileo's, so that queries written for its database go on working. All that
belongs to an experiment goes with it (`ON DELETE CASCADE`). Times are seconds since 1970.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT

MAX_ID = 64
MAX_NAME = 200

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # which SQLite numbers without an index
_LONG = Text().with_variant(MEDIUMTEXT, "mysql")  # else 64 KiB there

# Ids differ by case, as everywhere else, and names may be in any script.
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

SCHEMA = MetaData()


def _numbered() -> Column[int]:
    return Column("number", _NUMBER, primary_key=True, autoincrement=True)


def _experiment(*, one_row: bool = False, required: bool = True) -> Column[str]:
    """Return the column that says to which experiment a row belongs."""
    return Column(
        "exp_id",
        String(MAX_ID),
        ForeignKey("experiments.exp_id", ondelete="CASCADE"),
        primary_key=one_row,
        nullable=not required,
        index=not one_row,
    )


experiments = Table(
    "experiments",
    SCHEMA,
    _numbered(),  # the order in the queue
    Column("exp_id", String(MAX_ID), nullable=False, unique=True),
    Column("name", String(MAX_NAME), nullable=False),
    Column("creator", String(MAX_NAME), nullable=False),
    Column("start", Double),
    Column("end", Double),
    Column("created", Double, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", _LONG, nullable=False),  # why it failed
    Column("runner", Text, nullable=False),  # the daemon that runs it or did
    Column("cancelling", Boolean, nullable=False),  # whether that daemon is to cancel it
    Index("ix_experiments_status", "status"),
    **_MYSQL,
)

instructions = Table(
    "instructions",
    SCHEMA,
    _experiment(one_row=True),
    Column("instructions", _LONG),
    Column("configuration", _LONG),  # JSON; one of the two is null
    **_MYSQL,
)

traces = Table(
    "traces",
    SCHEMA,
    _numbered(),
    _experiment(required=False),
    Column("request_id", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("sent", Double, nullable=False),
    Column("done", Double, nullable=False),
    Column("status", Integer, nullable=False),
    Column("server", Text, nullable=False),
    **_MYSQL,
)

telemetry = Table(
    "telemetry",
    SCHEMA,
    _numbered(),
    _experiment(),
    Column("timestamp", Double, nullable=False),
    Column("metric", String(MAX_NAME), nullable=False),
    Column("subsystem", String(MAX_NAME), nullable=False),
    Column("node", String(MAX_NAME), nullable=False),
    Column("value", Double, nullable=False),
    **_MYSQL,
)

events = Table(
    "events",
    SCHEMA,
    _numbered(),
    _experiment(),
    Column("timestamp", Double, nullable=False),
    Column("name", String(MAX_NAME), nullable=False),
    Column("value", _LONG, nullable=False),
    **_MYSQL,
)

nodeinfo = Table(
    "nodeinfo",
    SCHEMA,
    _numbered(),
    _experiment(),
    Column("node", String(MAX_NAME), nullable=False),
    Column("info_key", String(MAX_NAME), nullable=False),
    Column("info_value", _LONG, nullable=False),
    **_MYSQL,
)

metadata = Table(
    "metadata",
    SCHEMA,
    _experiment(one_row=True),
    Column("data", _LONG, nullable=False),  # JSON
    **_MYSQL,
)

SERIES = {table.name: table for table in (traces, telemetry, events, nodeinfo, metadata)}
"""What an experiment brings forth, by the names that people ask for it by."""
