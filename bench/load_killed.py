"""What is lost of traces when the process that writes them is killed, and not asked to end.

A process of its own writes traces as `myxo lab load` does, through the same buffer and sinks, and
counts them in memory that it shares with who started it. That kills it in the middle (SIGKILL), and
looks at what is there: everything up to some trace, and nothing after it.
"""

import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import trio
from sqlalchemy import Connection, select

from bench.client import AnswerFailed
from bench.lab.experiments import tables
from bench.lab.experiments.database import database_url
from bench.lab.experiments.store import SqlTraceSink, open_store
from bench.lab.loading.csv_sink import open_csv, read_csv
from bench.lab.loading.traces import TraceBuffer
from bench.lab.request_trace import RequestTrace, TraceSink

RATE = 10_000
"""Traces a second, ten times what the other blocks send."""

STEP_S = 0.005
"""From one lot of traces to the next."""

TIMEOUT_S = 60.0

SINKS = ("csv", "sqlite")

_COUNT = Struct("Q")


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of one writer.

    Attributes:
        made: traces that it had made when it was killed.
        kept: those that are there.
    """

    made: int
    kept: int

    @property
    def lost(self) -> int:
        """Those that are not."""
        return self.made - self.kept


def killed(kind: str, traces: int) -> Killed:
    """Return what is left of a writer that is killed once it has made so many traces.

    Raises:
        AnswerFailed: it does not come so far, or a trace is gone that is not one of the last.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "count").write_bytes(bytes(_COUNT.size))
        with (folder / "count").open("r+b") as file, mmap.mmap(file.fileno(), 0) as count:
            _kill_at(traces, kind, folder, count)
            (made,) = _COUNT.unpack(count[:])
        kept = trio.run(_kept, kind, folder)
    if kept != list(range(len(kept))):
        raise AnswerFailed(f"{kind}: of {made} traces others are gone than the last ones")
    return Killed(made, len(kept))


def _kill_at(traces: int, kind: str, folder: Path, count: mmap.mmap) -> None:
    process = subprocess.Popen([sys.executable, "-m", __name__, kind, str(folder)])
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while _COUNT.unpack(count[:])[0] < traces:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AnswerFailed(f"{kind}: the writer of traces ended, or makes none")
            time.sleep(STEP_S / 10)
    finally:
        process.kill()  # SIGKILL
        process.wait()


async def _kept(kind: str, folder: Path) -> Sequence[int]:
    """Return the numbers of the traces that are there, in order."""
    if kind == "csv":
        return [_number(trace.request_id) for trace in read_csv(folder / "traces.csv")]
    async with open_store(database_url(_url(folder), {}, folder)) as store:
        found = await store.read(_request_ids)
    return [_number(request_id) for request_id in found]


def _request_ids(connection: Connection) -> Sequence[str]:
    c = tables.traces.c
    return connection.execute(select(c.request_id).order_by(c.number)).scalars().all()


def _number(request_id: str) -> int:
    return int(request_id.rpartition(":")[2])


def _url(folder: Path) -> str:
    return f"sqlite:///{folder}/traces.sqlite3"


def trace(number: int, exp_id: str = "") -> RequestTrace:
    """Return a trace as a client of a load, or of an experiment, has them."""
    due = 1.8e9 + number / 1000
    return RequestTrace(
        f"h1:answer:0:{number}", "h1:answer:0", "answer", "h1", due, due, due, 200, "i1", exp_id
    )


async def _write(kind: str, folder: Path) -> None:
    """Make traces, and count them, for ever."""
    with (folder / "count").open("r+b") as file, mmap.mmap(file.fileno(), 0) as count:
        async with _sink(kind, folder) as sink, trio.open_nursery() as nursery:
            buffer = TraceBuffer(sink)
            nursery.start_soon(buffer.run)
            made = 0
            while True:
                for _ in range(int(RATE * STEP_S)):
                    buffer.add(trace(made))
                    made += 1
                    count[:] = _COUNT.pack(made)
                await trio.sleep(STEP_S)


@asynccontextmanager
async def _sink(kind: str, folder: Path) -> AsyncIterator[TraceSink]:
    if kind == "csv":
        with open_csv(folder / "traces.csv") as file:
            yield file
        return
    async with open_store(database_url(_url(folder), {}, folder)) as store:
        yield SqlTraceSink(store)


if __name__ == "__main__":
    trio.run(_write, sys.argv[1], Path(sys.argv[2]))
