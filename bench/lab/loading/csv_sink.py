"""Traces in a file of comma-separated values, which survive whatever becomes of their writer.

Each batch is one write to a file that is open for appending: several processes may write to one
file, and one that is killed leaves whole batches, of which a reader skips at most a torn last line.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.request_trace import RequestTrace

HEADER = ",".join(RequestTrace._fields) + "\n"
_QUOTED = frozenset(',"\r\n')


class CsvSink:
    """A `TraceSink` on a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """Append these; they are the system's to write to disk when this returns.

        Raises:
            LoadFailed: the file takes no more.
        """
        block = memoryview("".join([_line(trace) for trace in traces]).encode())
        try:
            while block:
                block = block[os.write(self._fd, block) :]
        except OSError as exc:
            raise LoadFailed(f"traces cannot be written: {exc}") from exc


@contextmanager
def open_csv(path: Path, *, fresh: bool = True) -> Iterator[CsvSink]:
    """Open a file of traces; it is made anew unless `fresh` is False.

    Raises:
        BadInput: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if fresh else 0)
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as exc:
        raise BadInput(f"traces cannot go to {path}: {exc.strerror}") from exc
    try:
        if os.fstat(fd).st_size == 0:
            os.write(fd, HEADER.encode())
        yield CsvSink(fd)
    finally:
        os.close(fd)


def read_csv(path: Path) -> Iterator[RequestTrace]:
    """Yield the traces of a file; a last line that is not whole is left out.

    Raises:
        BadInput: this is no such file.
    """
    with path.open(newline="\n") as file:  # a carriage return may be within a cell
        if file.readline() != HEADER:
            raise BadInput(f"{path} has no traces: its first line is not {HEADER.strip()}")
        for number, row in enumerate(csv.reader(_whole_lines(file)), 2):
            yield _trace(path, number, row)


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line.endswith("\n"))


def _trace(path: Path, number: int, row: Sequence[str]) -> RequestTrace:
    try:
        request_id, client, service, host, created, sent, done, status, server, exp_id = row
        times = (float(created), float(sent), float(done))
        return RequestTrace(request_id, client, service, host, *times, int(status), server, exp_id)
    except ValueError as exc:
        raise BadInput(f"row {number} of {path} is no trace: {exc}") from exc


def _line(trace: RequestTrace) -> str:
    request_id, client, service, host, created, sent, done, status, server, exp_id = trace
    return (
        f"{request_id if _QUOTED.isdisjoint(request_id) else _cell(request_id)},{_cell(client)},"
        f"{_cell(service)},{_cell(host)},{created:.6f},{sent:.6f},{done:.6f},"
        f"{status},{_cell(server)},{_cell(exp_id)}\n"
    )


@lru_cache(maxsize=1024)
def _cell(text: str) -> str:
    """Return a value as a cell; clients and services are few."""
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED & set(text) else text
