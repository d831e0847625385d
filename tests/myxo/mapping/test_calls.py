"""Maps on a real worker: what comes back is what a plain loop would have made."""

import asyncio
import math
import operator
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import myxo
from myxo.mapping import calls
from myxo.mapping.errors import FunctionUnusable, ItemFailed, NoWorkers, Unpicklable, WorkerLost
from overlay.testing_ports import free_port
from tests.myxo.callers import Use, numbers, run_under_asyncio

OFFSET = 7


class Point:
    """What is defined beside the caller travels with what uses it."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def moved(self, by: int) -> "Point":
        return Point(self.x + by)


class OwnError(Exception):
    pass


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


def multiplied(x: int, by: int = 3) -> int:
    return x * by


def fails_at_three(x: int) -> int:
    if x == 3:
        raise OwnError("three is not to be had")
    return x


def test_what_functions_use_travels_with_them(worker: str) -> None:
    add = 5
    items = list(range(20))
    functions: list[Callable[[int], Any]] = [
        lambda x: x + add,
        lambda x: x + OFFSET,
        multiplied,
        factorial,
        math.sqrt,
        Point(1).moved,
        partial(operator.sub, 10),
        lambda x: os.path.join("a", str(x)),  # noqa: PTH118  (an imported module's function)
        lambda x: Point(x).moved(1),
    ]
    for function in functions:
        assert myxo.map_sync(function, items, proxy=worker) == [function(x) for x in items]


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(plain_values, max_size=40), chunk=st.sampled_from(["auto", "sqrt", 1, 7]))
def test_items_come_back_as_they_went(worker: str, items: list[Any], chunk: Any) -> None:
    assert myxo.map_sync(lambda x: x, items, chunk=chunk, proxy=worker) == items


def test_objects_of_the_callers_own_classes_go_and_come(worker: str) -> None:
    points = [Point(x) for x in range(10)]
    assert myxo.map_sync(lambda p: p.moved(1), points, proxy=worker) == [p.moved(1) for p in points]


def test_large_arguments_and_results_are_whole(worker: str) -> None:
    blocks = [bytearray(os.urandom(3_000_000)) for _ in range(4)]
    assert myxo.map_sync(lambda block: block, blocks, proxy=worker) == blocks


def test_a_generator_is_read_no_further_than_the_work_needs(worker: str) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            yield read
            read += 1

    async def first_ten() -> list[int]:
        results = []
        async for result in myxo.map(lambda x: x * 2, endless(), chunk=5, proxy=worker):
            results.append(result)
            if len(results) == 10:
                break
        return results

    assert asyncio.run(first_ten()) == [x * 2 for x in range(10)]
    assert read < 1000


async def whole_list(worker: str) -> None:
    assert await myxo.map(lambda x: -x, range(500), proxy=worker) == [-x for x in range(500)]
    assert await myxo.map(lambda x: -x, numbers(20), proxy=worker) == [-x for x in range(20)]


async def in_order(worker: str) -> None:
    seen = [result async for result in myxo.map(lambda x: -x, range(500), proxy=worker)]
    assert seen == [-x for x in range(500)]


async def as_completed(worker: str) -> None:
    pairs = myxo.map(lambda x: -x, range(500), as_completed=True, proxy=worker)
    assert {index: result async for index, result in pairs} == {x: -x for x in range(500)}


@pytest.mark.parametrize("use", [whole_list, in_order, as_completed])
@pytest.mark.parametrize("run", [trio.run, run_under_asyncio])
def test_it_is_awaited_and_iterated_under_trio_and_asyncio(
    worker: str,
    use: Use,
    run: Callable[[Use, str], None],
) -> None:
    run(use, worker)


def test_no_items_need_no_worker() -> None:
    assert myxo.map_sync(factorial, [], proxy=f"127.0.0.1:{free_port()}") == []


# Errors


def test_an_items_own_exception_is_raised_with_where_it_happened(worker: str) -> None:
    with pytest.raises(OwnError, match="three is not to be had") as caught:
        myxo.map_sync(fails_at_three, range(10), proxy=worker)
    (note,) = caught.value.__notes__
    assert note.startswith("item 3 of the map, computed by worker ")
    assert "in fails_at_three" in str(caught.value.__cause__)


def test_exceptions_can_be_results_and_sink_no_other_item(worker: str) -> None:
    results = myxo.map_sync(fails_at_three, range(10), return_exceptions=True, proxy=worker)
    assert isinstance(results[3], OwnError)
    assert results[:3] + results[4:] == [0, 1, 2, *range(4, 10)]


def test_an_exception_that_cannot_travel_is_told(worker: str) -> None:
    def fails(x: int) -> int:
        class Hidden(Exception):
            def __init__(self, lock: object) -> None:
                super().__init__(f"hidden {x}")
                self.lock = lock

        raise Hidden(threading.Lock())

    with pytest.raises(ItemFailed, match=r"item 0: .*Hidden: hidden 0") as caught:
        myxo.map_sync(fails, [1 - 1], proxy=worker)
    assert f'File "{__file__}", line' in caught.value.trace
    assert "in fails\n    raise Hidden(threading.Lock())" in caught.value.trace


def test_what_raised_is_computed_again_as_often_as_asked(worker: str, tmp_path: Path) -> None:
    def fails_twice(x: int) -> int:
        tries = tmp_path / str(x)
        before = tries.stat().st_size if tries.exists() else 0
        tries.write_bytes(b"x" * (before + 1))
        if before < 2:
            raise OwnError("not yet")
        return before

    assert myxo.map_sync(fails_twice, [1, 2], retries=2, proxy=worker) == [2, 2]
    with pytest.raises(OwnError):
        myxo.map_sync(fails_twice, [3], retries=1, proxy=worker)


async def test_what_is_computed_again_is_not_held_back_by_the_results_behind_it(
    worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "UNTAKEN", 10)
    tried = tmp_path / "tried"

    def fails_once(x: int) -> int:
        if x == 0 and not tried.exists():
            tried.touch()
            raise OwnError
        return x

    with trio.fail_after(60):
        results = myxo.map(fails_once, range(300), chunk=100, retries=1, proxy=worker)
        assert [result async for result in results] == list(range(300))


def test_an_item_that_takes_too_long_fails_alone(worker: str) -> None:
    def waits_at_three(x: int) -> int:
        if x == 3:
            time.sleep(60)
        return x

    results = myxo.map_sync(
        waits_at_three, range(6), timeout=0.3, return_exceptions=True, proxy=worker
    )
    assert isinstance(results[3], TimeoutError)
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]


def test_an_item_that_ends_its_worker_is_named_and_sinks_no_other(worker: str) -> None:
    def ends_at_three(x: int) -> int:
        if x == 3:
            os._exit(9)
        return x

    results = myxo.map_sync(ends_at_three, range(50), return_exceptions=True, proxy=worker)
    assert isinstance(results[3], WorkerLost)
    assert results[:3] + results[4:] == [0, 1, 2, *range(4, 50)]


def test_what_cannot_travel_is_named(worker: str) -> None:
    lock = threading.Lock()
    with pytest.raises(Unpicklable, match=r"<lambda> cannot be sent: lock \(a lock\)"):
        myxo.map_sync(lambda _: lock, [1], proxy=worker)
    with pytest.raises(Unpicklable, match=r"item 1 \(a lock\) cannot be sent"):
        myxo.map_sync(str, [1, threading.Lock()], proxy=worker)
    with pytest.raises(TypeError, match="cannot pickle"):
        myxo.map_sync(lambda x: threading.Lock() if x else x, [0, 1], proxy=worker)


def test_a_module_that_is_not_installed_there_is_named(
    worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It lies where this process takes modules to be installed, and the worker's does not look.
    monkeypatch.setattr("myxo.mapping.functions._INSTALLED_UNDER", (tmp_path,))
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = __import__("only_here")
    with pytest.raises(FunctionUnusable, match="No module named 'only_here'"):
        myxo.map_sync(only_here.double, [1], proxy=worker)
    del sys.modules["only_here"]


def test_where_no_proxy_is_that_is_said() -> None:
    with pytest.raises(NoWorkers, match=r"no proxy answers at .* `myxo up`"):
        myxo.map_sync(factorial, [1, 2, 3], proxy=f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"chunk": 0}, "chunk is 0"),
        ({"chunk": "big"}, "chunk is 'big'"),
        ({"timeout": 0}, "timeout is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"max_in_flight": True}, "max_in_flight is True"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        myxo.map_sync(factorial, [1], **setting)


# Cancellation


async def test_a_caller_that_is_cancelled_frees_its_worker(worker: str) -> None:
    started = trio.current_time()
    with trio.move_on_after(0.5) as scope:
        await myxo.map(lambda _: time.sleep(600), range(10), proxy=worker)
    assert scope.cancelled_caught
    with trio.fail_after(60):
        assert await myxo.map(factorial, [5], proxy=worker) == [120]
    assert trio.current_time() - started < 300


class ImportsForLong:
    """A function whose loading takes long, and tells of its being broken off as imports in C do."""

    def __init__(self, began: Path) -> None:
        self._began = began

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return import_for_long, (self._began,)

    def __call__(self, item: int) -> int:
        return item


def import_for_long(began: Path) -> None:
    began.write_text(str(os.getpid()))
    try:
        time.sleep(600)
    except BaseException as exc:
        raise ImportError("half imported") from exc


async def test_a_process_whose_import_was_broken_off_computes_nothing_more(
    worker: str, tmp_path: Path
) -> None:
    began = tmp_path / "began"

    async def leave_when_it_has_begun(scope: trio.CancelScope) -> None:
        while not (began.exists() and began.read_text()):  # noqa: ASYNC110  (another process)
            await trio.sleep(0.01)
        scope.cancel()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_when_it_has_begun, nursery.cancel_scope)
            await myxo.map(ImportsForLong(began), [1], proxy=worker)
        (other,) = await myxo.map(lambda _: os.getpid(), [1], proxy=worker)
    assert other != int(began.read_text())


# A map within a map


def test_a_map_within_a_mapped_function_is_computed_there(worker: str) -> None:
    def row(x: int) -> list[int]:
        import myxo  # noqa: PLC0415  (where it runs)

        return myxo.map_sync(lambda y: x * y, (y for y in range(3)))

    assert myxo.map_sync(row, range(4), proxy=worker) == [
        [x * y for y in range(3)] for x in (0, 1, 2, 3)
    ]


def test_what_a_map_within_raises_is_the_items_own(worker: str) -> None:
    def inner(x: int) -> list[Any]:
        import myxo  # noqa: PLC0415  (where it runs)

        found = myxo.map_sync(fails_at_three, [x, 3], return_exceptions=True, retries=1)
        return [type(one).__name__ for one in found]

    assert myxo.map_sync(inner, [1], proxy=worker) == [["int", "OwnError"]]


async def test_an_executor_within_a_mapped_function_computes_there(worker: str) -> None:
    def total(x: int) -> int:
        import myxo  # noqa: PLC0415  (where it runs)

        with myxo.Executor() as executor:
            return sum(executor.map(multiplied, range(x)))

    assert await myxo.map(total, range(4), proxy=worker) == [0, 0, 3, 9]


# What cannot be unpickled at the other end


class Unreadable:
    """Its pickle cannot be read in a process that it names."""

    def __init__(self, by: int | None = None) -> None:
        self.by = by

    def __reduce__(self) -> Any:
        return _read_unreadable, (os.getpid(), self.by)


def _read_unreadable(made_by: int, by: int | None) -> Unreadable:
    if os.getpid() in {made_by, by}:
        raise OwnError("not to be read here")
    return Unreadable(by)


def test_an_item_that_a_worker_cannot_read_sinks_no_other(worker: str) -> None:
    def pid_of(item: Any) -> int:
        return item if isinstance(item, int) else -1

    own = Unreadable(myxo.map_sync(lambda _: os.getpid(), [0], proxy=worker)[0])
    items = [*range(100), own, *range(101, 200)]
    for chunk in ("auto", 50):
        found = myxo.map_sync(pid_of, items, chunk=chunk, return_exceptions=True, proxy=worker)
        assert isinstance(found[100], OwnError)
        assert "item 100 of the map" in found[100].__notes__[0]
        assert found[:100] + found[101:] == items[:100] + items[101:]


def test_a_result_that_the_caller_cannot_read_sinks_no_other_message(worker: str) -> None:
    caller = os.getpid()

    def result(x: int) -> Any:
        return Unreadable(caller) if x == 5 else x

    found = myxo.map_sync(result, range(10), chunk=1, return_exceptions=True, proxy=worker)
    assert isinstance(found[5], OwnError)
    assert "results of items 5 to 5" in found[5].__notes__[0]
    assert found[:5] + found[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


# What is no `Exception`, and what breaks the process's own files


class OwnBase(BaseException):
    pass


@pytest.mark.parametrize(
    "kind", [OwnBase, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
def test_what_is_no_exception_is_an_items_own_too(worker: str, kind: type[BaseException]) -> None:
    def raises(x: int) -> int:
        if x == 1:
            raise kind("one")
        return os.getpid()

    first, error, last = myxo.map_sync(raises, range(3), return_exceptions=True, proxy=worker)
    assert type(error) is kind
    assert first == last, "its worker went on"


def test_stop_iteration_is_told_as_what_a_generator_cannot_raise(worker: str) -> None:
    with pytest.raises(ItemFailed, match="StopIteration"):
        myxo.map_sync(lambda _: next(iter(())), [1], proxy=worker)


def test_an_item_that_closes_its_workers_files_fails_alone(
    make_worker: Callable[[], Any],
) -> None:
    def closes(x: int) -> int:
        if x == 3:
            os.closerange(3, 100)
        return x

    with make_worker() as address:
        found = myxo.map_sync(closes, range(6), return_exceptions=True, proxy=address)
        assert isinstance(found[3], WorkerLost)
        assert found[:3] + found[4:] == [0, 1, 2, 4, 5]


def test_a_generator_that_fills_the_same_list_anew_gives_what_a_loop_sees(worker: str) -> None:
    def rows() -> Iterator[list[int]]:
        row = [0]
        for number in range(300):
            row[0] = number
            yield row

    assert myxo.map_sync(lambda row: row[0], rows(), proxy=worker) == list(range(300))
