"""An experiment as files: one table each, as CSV or Parquet, and what it was as JSON."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Double, Integer, Table

from bench.lab.errors import BadInput
from bench.lab.experiments import queries, tables


class Format(StrEnum):
    """How tables are written."""

    CSV = "csv"
    PARQUET = "parquet"


Rows = Iterable[Sequence[Sequence[Any]]]
"""Batches of rows."""


def export(connection: Connection, exp_id: str, form: Format, folder: Path) -> list[Path]:
    """Write an experiment's tables into `folder`, and return the files; blocks.

    A file is there under its name only when it is whole.

    Raises:
        NoSuchExperiment: there is none with this id.
        BadInput: the folder cannot be written to.
    """
    described = _described(connection, exp_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [
            _written(folder / "experiment.json", lambda path: path.write_text(described, "utf-8"))
        ]
        written += [
            _table(connection, table, exp_id, form, folder)
            for table in tables.SERIES.values()
            if table is not tables.metadata  # which is in the JSON
        ]
    except OSError as exc:
        raise BadInput(f"the experiment cannot be written to {folder}: {exc}") from exc
    return written


def _described(connection: Connection, exp_id: str) -> str:
    experiment = queries.get(connection, exp_id)
    task = queries.task(connection, exp_id)
    return json.dumps(asdict(experiment) | asdict(task), indent=2, ensure_ascii=False) + "\n"


def _table(connection: Connection, table: Table, exp_id: str, form: Format, folder: Path) -> Path:
    query = queries.series(table.name, [exp_id])
    streamed = connection.execute(query, execution_options={"yield_per": queries.STREAMED})
    columns = list(streamed.keys())
    write = _write_csv if form is Format.CSV else _write_parquet
    return _written(
        folder / f"{table.name}.{form}",
        lambda path: write(path, table, columns, streamed.partitions()),
    )


def _write_csv(path: Path, table: Table, columns: Sequence[str], rows: Rows) -> None:
    del table
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for batch in rows:
            writer.writerows(batch)


def _write_parquet(path: Path, table: Table, columns: Sequence[str], rows: Rows) -> None:
    schema = pa.schema([(name, _arrow_type(table, name)) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in rows:
            arrays = [
                pa.array(values, field.type)
                for values, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _arrow_type(table: Table, column: str) -> pa.DataType:
    match table.c[column].type:
        case Double():
            return pa.float64()
        case Integer():
            return pa.int64()
        case _:
            return pa.string()


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    unfinished = path.with_name(f".{path.name}.part")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
