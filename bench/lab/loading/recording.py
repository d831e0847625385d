"""Profiles and arrivals that may be in a file: reads it, and leaves the rest to the parsers."""

import csv
from pathlib import Path

from bench.lab.errors import BadInput
from bench.lab.loading.arrivals import Arrivals, parse_arrivals, recorded
from bench.lab.loading.profiles import Profile, parse_profile, recorded_profile

_PROFILE, _ARRIVALS = "csv:", "prerecorded:"


def read_profile(text: str, interval_s: float = 1.0) -> Profile:
    """Return the profile that a text means; `csv:FILE` has rows of a time in seconds and a rate.

    Raises:
        BadInput: it means none, or the file cannot be read.
    """
    if not text.startswith(_PROFILE):
        return parse_profile(text, interval_s)
    rows = _numbers(Path(text.removeprefix(_PROFILE)), 2)
    return recorded_profile([(at, rate) for at, rate in rows])


def read_arrivals(text: str) -> Arrivals:
    """Return the arrivals that a text means; `prerecorded:FILE` has a time in seconds a line.

    Raises:
        BadInput: it means none, or the file cannot be read.
    """
    if not text.startswith(_ARRIVALS):
        return parse_arrivals(text)
    return recorded([gap for (gap,) in _numbers(Path(text.removeprefix(_ARRIVALS)), 1)])


def _numbers(path: Path, columns: int) -> list[list[float]]:
    """Return the rows of a file; a first row without numbers is a header."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BadInput(f"{path} cannot be read: {exc}") from exc
    if rows and _row(rows[0], columns) is None:
        del rows[0]
    found = []
    for number, row in enumerate(rows, 1):
        values = _row(row, columns)
        if values is None:
            raise BadInput(f"{path}: row {number} is not {columns} number(s): {','.join(row)}")
        found.append(values)
    return found


def _row(row: list[str], columns: int) -> list[float] | None:
    try:
        values = [float(cell) for cell in row]
    except ValueError:
        return None
    return values if len(values) == columns else None
