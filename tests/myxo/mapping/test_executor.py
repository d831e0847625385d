"""The standard library's executor on a real worker."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

import myxo
from myxo.mapping import executor as executor_module
from myxo.mapping.errors import NoWorkers, Unpicklable, WorkerLost
from overlay.testing_ports import free_port

TIMEOUT_S = 60.0


def power(base: int, exponent: int = 2) -> int:
    return int(base**exponent)


def fails(text: str) -> None:
    raise LookupError(text)


def begun_then_waits(folder: Path, name: str) -> str:
    """Say that it has begun and return when it is told to go on."""
    (folder / f"{name}-begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return name


def await_file(path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_calls_of_different_functions_and_arguments_have_their_results(worker: str) -> None:
    with myxo.Executor(proxy=worker) as executor:
        futures = {executor.submit(power, n): n**2 for n in range(50)}
        futures |= {executor.submit(power, n, exponent=3): n**3 for n in range(50)}
        futures[executor.submit(lambda: 7)] = 7
        assert {f.result(TIMEOUT_S) for f in as_completed(futures)} == set(futures.values())
        assert all(f.result() == expected for f, expected in futures.items())


def test_its_map_is_in_order_and_takes_several_iterables(worker: str) -> None:
    with myxo.Executor(proxy=worker) as executor:
        assert list(executor.map(power, range(20), [3] * 20)) == [n**3 for n in range(20)]


def test_an_exception_is_its_futures_own_and_sinks_no_other(worker: str) -> None:
    with myxo.Executor(proxy=worker) as executor:
        bad, good = executor.submit(fails, "nothing there"), executor.submit(power, 3)
        error = bad.exception(TIMEOUT_S)
        assert isinstance(error, LookupError)
        assert "computed by worker" in error.__notes__[0]
        assert good.result(TIMEOUT_S) == 9


def test_a_call_that_ends_each_worker_fails_alone(worker: str) -> None:
    with myxo.Executor(proxy=worker) as executor:
        assert isinstance(executor.submit(os._exit, 9).exception(TIMEOUT_S), WorkerLost)
        assert executor.submit(power, 4).result(TIMEOUT_S) == 16


def test_what_cannot_travel_is_said_when_it_is_submitted(worker: str) -> None:
    lock = threading.Lock()
    with myxo.Executor(proxy=worker) as executor:
        with pytest.raises(Unpicklable, match="lock"):
            executor.submit(lambda: lock)
        with pytest.raises(Unpicklable, match="the arguments of"):
            executor.submit(power, lock)  # type: ignore[arg-type]
        assert executor.submit(power, 2).result(TIMEOUT_S) == 4


def test_what_has_not_begun_can_be_cancelled(worker: str, tmp_path: Path) -> None:
    with myxo.Executor(proxy=worker) as executor:
        first = executor.submit(begun_then_waits, tmp_path, "first")
        await_file(tmp_path / "first-begun")
        others = [executor.submit(begun_then_waits, tmp_path, str(n)) for n in range(20)]
        assert not first.cancel()
        cancelled = [future for future in others if future.cancel()]
        (tmp_path / "go").touch()
        wait([first, *others], TIMEOUT_S)
    assert first.result() == "first"
    assert len(cancelled) >= 18  # one may be computed, another on its way to the worker
    computed = {path.name for path in tmp_path.glob("*-begun")} - {"first-begun"}
    assert computed == {f"{n}-begun" for n, f in enumerate(others) if f not in cancelled}
    with pytest.raises(CancelledError):
        cancelled[0].result()


def test_shutting_down_waits_for_what_was_taken_and_takes_no_more(worker: str) -> None:
    executor = myxo.Executor(proxy=worker)
    futures = [executor.submit(power, n) for n in range(100)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(power, 1)
    executor.shutdown()


def test_shutting_down_can_cancel_what_has_not_begun(worker: str, tmp_path: Path) -> None:
    executor = myxo.Executor(proxy=worker)
    first = executor.submit(begun_then_waits, tmp_path, "first")
    await_file(tmp_path / "first-begun")
    others = [executor.submit(power, n) for n in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    executor.shutdown()
    assert first.result(TIMEOUT_S) == "first"
    assert sum(future.cancelled() for future in others) >= 18


def test_workers_are_freed_while_there_are_no_calls(
    worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "LINGER_S", 0.01)
    with myxo.Executor(proxy=worker) as executor:
        assert executor.submit(power, 2).result(TIMEOUT_S) == 4
        # The one worker is another map's meanwhile: it is not held.
        assert myxo.map_sync(power, [1, 2], proxy=worker) == [1, 4]
        assert executor.submit(power, 3).result(TIMEOUT_S) == 9


def test_calls_fail_with_what_the_map_fails_with() -> None:
    with myxo.Executor(proxy=f"127.0.0.1:{free_port()}") as executor:
        for _ in range(2):
            future = executor.submit(power, 2)
            assert isinstance(future.exception(TIMEOUT_S), NoWorkers)


def test_asyncio_runs_calls_in_it(worker: str) -> None:
    async def use(executor: Any) -> list[int]:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(executor, power, n) for n in range(10))
        return await asyncio.gather(*calls)

    with myxo.Executor(proxy=worker) as executor:
        assert asyncio.run(use(executor)) == [n**2 for n in range(10)]


def test_large_arguments_are_whole(worker: str) -> None:
    block = os.urandom(3_000_000)
    with myxo.Executor(proxy=worker) as executor:
        assert executor.submit(bytes.upper, block).result(TIMEOUT_S) == block.upper()


def test_a_call_that_is_given_out_again_is_asked_once_whether_it_was_cancelled() -> None:
    cancelled, wanted = executor_module._Future[Any](), executor_module._Future[Any]()
    calls = executor_module._Calls({0: cancelled, 1: wanted})
    calls.add(["first", "second"])
    cancelled.cancel()
    for _ in range(2):
        assert calls.take(range(2)) == [None, "second"]
    assert wanted.running()
    assert wait([cancelled], TIMEOUT_S).done == {cancelled}


def test_a_program_that_ends_waits_for_its_calls(worker: str) -> None:
    program = """
import myxo, sys
executor = myxo.Executor(proxy=sys.argv[1])
for n in range(5):
    executor.submit(pow, n, 2).add_done_callback(lambda future: print(future.result()))
"""
    command = [sys.executable, "-c", program, worker]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (sorted(done.stdout.split()), done.stderr) == (["0", "1", "16", "4", "9"], "")
