"""A trace from somebody else's CSV: which of its columns is what.

The file has a header; a column is called by its name there, or by its number from 1. Times are
numbers, in any unit, or dates in ISO 8601; the trace begins at 0. Logs are written when requests
end, so rows are sorted by arrival.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import IO

from bench.lab.errors import BadInput
from bench.lab.traces.rows import COLUMNS, Request, bounded, operation_of, whole

EXAMPLE = "arrival=ts,filesize=bytes"

_DEFAULTS = {"worker": "1", "operation": "read", "space": "0", "filesize": "1"}
"""For the columns that are not named."""


def column_map(text: str) -> dict[str, str]:
    """Return the columns that `arrival=ts,…` names, by those of a trace.

    Raises:
        BadInput: it names none, or none of a trace's.
    """
    columns: dict[str, str] = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not equals or not theirs:
            raise BadInput(f"--columns has {pair!r}; write {EXAMPLE}")
        if ours not in COLUMNS:
            near = get_close_matches(ours, COLUMNS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(COLUMNS)}"
            raise BadInput(f"--columns names {ours!r}, which a trace has not{hint}")
        columns[ours] = theirs
    if "arrival" not in columns:
        raise BadInput(f"--columns does not say which column is the arrival; write {EXAMPLE}")
    return columns


def imported(
    file: IO[str], name: str, columns: Mapping[str, str], scale: float = 1.0
) -> list[Request]:
    """Return the trace that a CSV with a header holds, sorted, beginning at 0.

    Args:
        file: the CSV.
        name: of it, for errors.
        columns: theirs by ours, `arrival` among them; what is left out is worker 1, a read, place
            0, size 1.
        scale: what arrivals are multiplied by, such as 0.001 for milliseconds.

    Raises:
        BadInput: naming the line, or the column, that cannot be used.
    """
    rows = csv.reader(file)
    header = next(rows, None)
    if not header:
        raise BadInput(f"{name} is empty; its first line names its columns")
    at = {ours: _position(theirs, header, name) for ours, theirs in columns.items()}
    found = sorted(_requests(rows, at, len(header), name), key=lambda request: request.arrival)
    if not found:
        raise BadInput(f"{name} has a header and no rows")
    first = found[0].arrival
    return [one._replace(arrival=round((one.arrival - first) * scale, 6)) for one in found]


def _position(column: str, header: Sequence[str], name: str) -> int:
    names = [text.strip().removeprefix("\ufeff") for text in header]
    if column in names:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= len(names):
        return int(column) - 1
    near = get_close_matches(column, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BadInput(f"{name} has no column {column!r}; it has {', '.join(names)}{hint}")


def _requests(
    rows: Iterable[list[str]], at: Mapping[str, int], width: int, name: str
) -> Iterator[Request]:
    for number, cells in enumerate(rows, 2):
        if not cells:
            continue
        bounded(number, name)
        where = f"line {number} of {name}"
        if len(cells) != width:
            raise BadInput(f"{where} has {len(cells)} columns, and the header {width}")
        told = _DEFAULTS | {ours: cells[position].strip() for ours, position in at.items()}
        yield Request(
            moment(told["arrival"], f"{where}: arrival"),
            whole(told["worker"], f"{where}: worker"),
            operation_of(told["operation"], f"{where}: operation"),
            whole(told["space"], f"{where}: space"),
            whole(told["filesize"], f"{where}: filesize"),
        )


def moment(text: str, what: str) -> float:
    """Return the time that a number or a date is; dates in seconds since 1970, by UTC.

    Raises:
        BadInput: it is neither.
    """
    try:
        found = float(text)
    except ValueError:
        return _date(text, what).timestamp()
    if abs(found) < float("inf"):
        return found
    raise BadInput(f"{what} is {text!r}; it must be a number or a date in ISO 8601")


def _date(text: str, what: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{what} is {text!r}; it must be a number or a date in ISO 8601") from None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
