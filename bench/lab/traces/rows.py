"""One request of a trace, and the five columns that a file has of it.

There is no header. Times have six digits behind the point and nothing else is a fraction, so that a
trace is the same bytes on every machine.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal, NamedTuple, get_args

from bench.lab.errors import BadInput

MOST_REQUESTS = 2_000_000
"""Of one trace: it is held in memory, some 300 bytes a request."""

Operation = Literal["read", "write"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
COLUMNS = ("arrival", "worker", "operation", "space", "filesize")


class Request(NamedTuple):
    """A request for a file.

    Attributes:
        arrival: when it comes, since the trace's beginning.
        worker: as generated, which of the concurrent clients sends it; once split, who serves it.
        operation: what is done with the file.
        space: where the file is in the address space.
        filesize: of the file.
    """

    arrival: float
    worker: int
    operation: Operation
    space: int
    filesize: int


def mean_gap(requests: Sequence[Request]) -> float:
    """Return the mean of the successive differences of the arrivals; 0 where there are none."""
    if len(requests) < 2:
        return 0.0
    return (requests[-1].arrival - requests[0].arrival) / (len(requests) - 1)


def gaps(requests: Iterable[Request]) -> list[float]:
    """Return the times between successive arrivals."""
    return [later.arrival - earlier.arrival for earlier, later in pairwise(requests)]


def lines(requests: Iterable[Request]) -> Iterator[str]:
    """Return the lines of a trace's file."""
    return (f"{r.arrival:.6f},{r.worker},{r.operation},{r.space},{r.filesize}\n" for r in requests)


def write(requests: Iterable[Request], path: Path) -> None:
    """Write a trace into a file.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        with path.open("w", newline="") as file:
            file.writelines(lines(requests))
    except OSError as exc:
        raise BadInput(f"{path} cannot be written: {exc.strerror}") from exc


def read(path: Path) -> list[Request]:
    """Return the trace that a file holds.

    Raises:
        BadInput: naming the line that is none of a trace's.
    """
    try:
        with path.open(newline="") as file:
            return list(parsed(file, str(path)))
    except (OSError, UnicodeDecodeError) as exc:
        raise unreadable(path, exc) from exc


def unreadable(path: Path, exc: OSError | UnicodeDecodeError) -> BadInput:
    """Return what to say of a file that cannot be read."""
    why = exc.strerror if isinstance(exc, OSError) else "it is no text in UTF-8"
    return BadInput(f"{path} cannot be read: {why}")


def parsed(file: IO[str], name: str) -> Iterator[Request]:
    """Yield the requests of a trace's lines.

    Raises:
        BadInput: naming the line that is none, or comes before the one above it.
    """
    before = 0.0
    number = 0
    for cells in csv.reader(file):
        number += 1
        if not cells:
            continue
        where = f"line {number} of {name}"
        bounded(number, name)
        request = _request(cells, where)
        if request.arrival < before:
            raise BadInput(
                f"{where}: it arrives at {request.arrival:g}, before the line above at {before:g}; "
                "`myxo lab trace import` sorts"
            )
        before = request.arrival
        yield request
    if not number:
        raise BadInput(f"{name} is empty; `myxo lab trace gen` makes traces")


def bounded(count: int, name: str) -> None:
    """Return unless a trace has too many requests.

    Raises:
        BadInput: it has.
    """
    if count > MOST_REQUESTS:
        raise BadInput(f"{name} has more than {MOST_REQUESTS:,} requests; cut it into several")


def _request(cells: Sequence[str], where: str) -> Request:
    if len(cells) != len(COLUMNS):
        raise BadInput(
            f"{where} has {len(cells)} columns; a trace has {', '.join(COLUMNS)}, and no header. "
            "`myxo lab trace import` takes others"
        )
    arrival, worker, operation, space, filesize = cells
    return Request(
        number_of(arrival, f"{where}: arrival"),
        whole(worker, f"{where}: worker"),
        operation_of(operation, f"{where}: operation"),
        whole(space, f"{where}: space"),
        whole(filesize, f"{where}: filesize"),
    )


def number_of(text: str, what: str) -> float:
    """Return a number that is not negative.

    Raises:
        BadInput: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        raise BadInput(f"{what} is {text!r}; it must be a number") from None
    if not 0 <= number < float("inf"):
        raise BadInput(f"{what} is {text!r}; it must be 0 or more")
    return number


def whole(text: str, what: str) -> int:
    """Return a whole number that is not negative.

    Raises:
        BadInput: it is none.
    """
    number = number_of(text, what)
    if number != int(number):
        raise BadInput(f"{what} is {text!r}; it must be a whole number")
    return int(number)


_READS = frozenset({"read", "r", "get", "head", "options", "0"})
_WRITES = frozenset({"write", "w", "put", "post", "patch", "delete", "1"})


def operation_of(text: str, what: str) -> Operation:
    """Return the operation that a word means: read, write, their first letters, or HTTP's methods.

    Raises:
        BadInput: it means none.
    """
    word = text.strip().lower()
    if word in _READS:
        return "read"
    if word in _WRITES:
        return "write"
    raise BadInput(f"{what} is {text!r}; it is read or write, or a method of HTTP")
