"""Several maps on one worker, and a worker that is to end."""

import gc
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

import myxo
from myxo.mapping.given import Chunk

TIMEOUT_S = 120.0


def slow(x: int) -> int:
    time.sleep(0.005)
    return x


class LongMap:
    """A map that does not end, and the results that it has had."""

    def __init__(self, function: Callable[[int], int] = slow) -> None:
        self._function = function
        self.seen: list[int] = []
        self._news = trio.Event()

    async def run(self, worker: str, chunk: Any) -> None:
        async for result in myxo.map(self._function, count(), chunk=chunk, proxy=worker):
            self.seen.append(result)
            self._news.set()

    async def goes_on(self) -> None:
        """Wait for one more result."""
        self._news = trio.Event()
        await self._news.wait()


# With 100,000 items in a chunk the worker would be at the first one for eight minutes.
@pytest.mark.parametrize("chunk", ["auto", 1, 100_000])
async def test_a_map_does_not_wait_for_the_end_of_another_one(worker: str, chunk: Any) -> None:
    long = LongMap()
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(long.run, worker, chunk)
            await long.goes_on()
            for _ in range(3):
                assert await myxo.map(slow, range(50), proxy=worker) == list(range(50))
            await long.goes_on()
            nursery.cancel_scope.cancel()
    assert long.seen == list(range(len(long.seen)))


async def test_maps_at_once_on_one_worker_each_have_their_results(worker: str) -> None:
    results: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        results[number] = await myxo.map(lambda x: x * number, range(300), proxy=worker)

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one, number)
    assert results == {number: [x * number for x in range(300)] for number in range(6)}


async def test_items_of_one_map_that_end_the_worker_are_not_blamed_on_another(
    worker: str,
) -> None:
    long = LongMap()
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(long.run, worker, 1)
            await long.goes_on()
            ends = await myxo.map(
                lambda x: os._exit(9) if x == 2 else x,
                range(5),
                return_exceptions=True,
                proxy=worker,
            )
            assert isinstance(ends[2], myxo.mapping.errors.WorkerLost)
            assert [ends[x] for x in (0, 1, 3, 4)] == [0, 1, 3, 4]
            nursery.cancel_scope.cancel()


async def test_a_caller_that_goes_does_not_disturb_the_others(worker: str) -> None:
    async def goes() -> None:
        while True:
            with trio.move_on_after(0.3):
                await myxo.map(lambda _: time.sleep(600), range(3), proxy=worker)

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(goes)
            for _ in range(5):
                assert await myxo.map(slow, range(40), proxy=worker) == list(range(40))
            nursery.cancel_scope.cancel()


async def test_a_worker_that_is_told_to_end_gives_back_what_it_has_not_computed(
    make_worker: Callable[[], Any], tmp_path: Path
) -> None:
    computed = tmp_path / "computed"
    results: list[int] = []

    def noted(x: int) -> int:
        with computed.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(0.02)
        return x

    async def mapped(proxy: str) -> None:
        results.extend(await myxo.map(noted, range(60), chunk=10, proxy=proxy))
        done.set()

    done = trio.Event()
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            stand_in = StandIn()
            await nursery.start(stand_in.run)
            nursery.start_soon(mapped, stand_in.address)
            for lines in (10, 20, None):
                worker = make_worker()
                stand_in.worker = await trio.to_thread.run_sync(worker.__enter__)
                if lines is None:
                    await done.wait()
                else:
                    await trio.to_thread.run_sync(wait_for_lines, computed, lines)
                stand_in.worker = None
                await trio.to_thread.run_sync(worker.__exit__)
            nursery.cancel_scope.cancel()
    assert results == list(range(60))
    # The item that it was at was computed to its end and counted: nothing was computed twice.
    assert sorted(map(int, computed.read_text().split())) == list(range(60))


class StandIn:
    """Leads connections to a worker, as a proxy does, and says so where there is none."""

    worker: str | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
            )
            self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            task_status.started()

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.worker is None:
            await client.send_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\nthere is none\n")
            return
        host, _, port = self.worker.partition(":")
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream as worker, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, worker)
                await self._copy(worker, client)
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await to.send_all(data)


def wait_for_lines(path: Path, lines: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists() or len(path.read_text().split()) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_connection_that_says_nothing_keeps_nobody_out(worker: str) -> None:
    host, _, port = worker.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        assert myxo.map_sync(slow, range(10), proxy=worker) == list(range(10))
    finally:
        for one in silent:
            with suppress(OSError):
                one.close()


# What a caller keeps

ITEMS = 4_000_000


async def test_of_chunks_that_are_done_nothing_is_kept(worker: str) -> None:
    long = LongMap(int)
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(long.run, worker, 1)
            while len(long.seen) < 3000:
                await long.goes_on()
            gc.collect()
            alive = sum(isinstance(one, Chunk) for one in gc.get_objects())
            nursery.cancel_scope.cancel()
    assert alive <= 20


@pytest.mark.slow
async def test_millions_of_small_items_leave_the_callers_memory_as_it_was(worker: str) -> None:
    blocks: list[int] = []
    seen = 0
    async for index, result in myxo.map(
        abs, (-x for x in range(ITEMS)), as_completed=True, proxy=worker
    ):
        assert index == result
        seen += 1
        if seen % (ITEMS // 100) == 0:
            blocks.append(sys.getallocatedblocks())
    assert seen == ITEMS
    # What is read ahead, is computed or waits to be taken comes and goes, a million objects of it;
    # what is kept of each item would be two millions more in the second half.
    assert min(blocks[50:]) <= min(blocks[:50]) + ITEMS // 4
