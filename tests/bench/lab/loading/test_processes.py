import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from bench.lab.errors import LoadFailed
from bench.lab.loading.csv_sink import read_csv
from bench.lab.loading.plan import Plan, make_plan
from bench.lab.loading.processes import Options, run_load

TIMEOUT_S = 60


def plan(url: str, **said: Any) -> Plan:
    return make_plan({"target": url} | said)


async def test_processes_share_one_schedule(fast_url: str, tmp_path: Path) -> None:
    load = plan(fast_url, profile="constant:500", arrival="expovariate", duration="0.6s", seed=3)
    file, alone = tmp_path / "two.csv", tmp_path / "one.csv"
    with trio.fail_after(TIMEOUT_S):
        outcome = await run_load(load, Options(processes=2, traces=file))
        await run_load(load, Options(traces=alone))
    tally, traces = outcome.tally, list(read_csv(file))
    assert tally.asked == tally.sent == tally.answered == len(traces) > 200
    assert {trace.client.rpartition(":")[2] for trace in traces} == {"0", "1"}
    assert tally.intended.count == tally.asked
    assert _dues(file) == pytest.approx(_dues(alone), abs=1e-5)


def _dues(file: Path) -> list[float]:
    created = sorted(trace.created for trace in read_csv(file))
    return [at - created[0] for at in created]


async def test_a_closed_loop_is_dealt_out(fast_url: str) -> None:
    with trio.fail_after(TIMEOUT_S):
        load = plan(fast_url, at_once=3, count=101)
        outcome = await run_load(load, Options(processes=2))
    assert outcome.tally.answered == 101


async def test_a_custom_client_runs_in_the_load_s_own_process(
    fast_url: str, tmp_path: Path
) -> None:
    said = tmp_path / "pid"
    code = f"import os\nopen({str(said)!r}, 'w').write(str(os.getpid()))\n"
    code += "def next_request():\n    return 'GET', context.parameters['path']\n"
    (tmp_path / "asker.py").write_text(code)
    load = plan(
        fast_url,
        client=str(tmp_path / "asker.py"),
        parameters={"path": "/x"},
        arrival="0.001",
        count=5,
    )
    with trio.fail_after(TIMEOUT_S):
        outcome = await run_load(load, Options())
    assert outcome.tally.answered == 5
    assert int(said.read_text()) != os.getpid()


async def test_what_goes_wrong_in_a_process_is_told(fast_url: str, tmp_path: Path) -> None:
    (tmp_path / "asker.py").write_text("def next_request():\n    raise KeyError('gone')\n")
    load = plan(fast_url, client=str(tmp_path / "asker.py"), arrival="0.001", count=5)
    with (
        trio.fail_after(TIMEOUT_S),
        pytest.raises(LoadFailed, match=r"client asker: .*KeyError: 'gone'"),
    ):
        await run_load(load, Options())


async def test_a_process_that_dies_is_told(fast_url: str, tmp_path: Path) -> None:
    code = "import os\ndef next_request():\n    os.write(2, b'my last words')\n    os._exit(3)\n"
    (tmp_path / "asker.py").write_text(code)
    load = plan(fast_url, client=str(tmp_path / "asker.py"), arrival="0.001", count=5)
    with (
        trio.fail_after(TIMEOUT_S),
        pytest.raises(LoadFailed, match="my last words"),
    ):
        await run_load(load, Options())


async def test_a_signal_ends_a_load_early_and_what_was_done_is_told(fast_url: str) -> None:
    load = plan(fast_url, profile="constant:100", duration="1h")
    began = time.monotonic()

    def interrupt(counts: Any) -> None:
        if counts["asked"]:
            os.kill(os.getpid(), signal.SIGINT)

    with trio.fail_after(TIMEOUT_S):
        outcome = await run_load(load, Options(), interrupt)
    assert time.monotonic() - began < TIMEOUT_S
    assert outcome.tally.asked == outcome.tally.answered > 0
