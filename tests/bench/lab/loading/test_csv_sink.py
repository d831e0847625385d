import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.loading.csv_sink import CsvSink, open_csv, read_csv
from bench.lab.loading.traces import EVERY
from bench.lab.request_trace import RequestTrace

TRACE = RequestTrace("h:s:1:7", "h:s:1", "s", "h", 1.5, 1.6, 2.25, 200, "abc", "exp")
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
times = st.integers(0, 2**52).map(lambda micro: micro / 1e6)
traces = st.builds(
    RequestTrace,
    texts,
    texts,
    texts,
    texts,
    times,
    times,
    times,
    st.integers(-1, 599),
    texts,
    texts,
)

WRITER = """
import sys, trio
from pathlib import Path
from bench.lab.loading.csv_sink import open_csv
from bench.lab.loading.traces import TraceBuffer
from bench.lab.request_trace import RequestTrace

async def main():
    with open_csv(Path(sys.argv[1])) as sink:
        buffer = TraceBuffer(sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buffer.run)
            for number in range(1, 10**9):
                buffer.add(RequestTrace(f"c:{number}", "c", "s", "h", 1.0, 2.0, 3.0, 200, "", ""))
                if number % 100 == 0:
                    print(number, flush=True)
                    await trio.lowlevel.checkpoint()

trio.run(main)
"""


@given(st.lists(traces, max_size=5))
def test_whatever_is_in_a_trace_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[RequestTrace]
) -> None:
    file = tmp_path_factory.mktemp("traces") / "t.csv"
    with open_csv(file) as sink:
        trio.run(sink.write, written)
    assert list(read_csv(file)) == written


async def test_several_writers_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    with open_csv(file) as one, open_csv(file, fresh=False) as other:
        await one.write([TRACE])
        await other.write([TRACE._replace(status=-1)])
    assert [trace.status for trace in read_csv(file)] == [200, -1]


def test_a_killed_writer_leaves_all_but_the_last_batch(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        added = 0
        while added < 20_000:
            added = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        added = max([added, *map(int, writer.stdout.read().splitlines())])
    numbers = [int(trace.request_id.partition(":")[2]) for trace in read_csv(file)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= added - 2 * EVERY


async def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    with open_csv(file) as sink:
        await sink.write([TRACE, TRACE])
    file.write_bytes(file.read_bytes()[:-5])
    assert list(read_csv(file)) == [TRACE]


def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(LoadFailed, match="No space"):
        trio.run(CsvSink(full.fileno()).write, [TRACE])


def test_what_has_no_traces_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="no traces"):
        list(read_csv(file))
    with pytest.raises(BadInput, match="Is a directory"), open_csv(tmp_path):
        pass
