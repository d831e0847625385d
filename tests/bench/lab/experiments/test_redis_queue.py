"""With a real Redis, as Galileo's users push to it."""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import trio

from bench.lab.errors import BadInput
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.redis_queue import QUEUE, TAKEN, RedisQueue
from bench.lab.experiments.status import Status
from bench.lab.experiments.store import Store
from bench.lab.testing import eventually
from overlay.notify import listening
from overlay.testing_ports import free_port

START_TIMEOUT_S = 30.0
SEED = (
    '{"instructions": "spawn exphost squeezenet 1\\nsleep 2\\nrps exphost squeezenet 1\\nsleep 5'
    '\\nrps exphost squeezenet 0\\nsleep 2\\nclose exphost squeezenet"}'
)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (Debian: redis-server)")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with listening(folder / "ready") as ready:
        process = subprocess.Popen(
            [program, *options, "--supervised", "systemd"],
            env=os.environ | ready.environment,
            stdout=subprocess.DEVNULL,
        )
        assert ready.wait(process, START_TIMEOUT_S)
    yield f"redis://127.0.0.1:{port}"
    process.terminate()
    process.wait(START_TIMEOUT_S)


@pytest.fixture
def server(redis_server: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def experiments(sqlite_store: Store) -> Experiments:
    return Experiments(sqlite_store)


@asynccontextmanager
async def reading(url: str, experiments: Experiments) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RedisQueue(url, experiments).run)
        yield
        nursery.cancel_scope.cancel()


async def queued(experiments: Experiments, count: int) -> list[Experiment]:
    """Return the experiments once there are so many."""

    async def look() -> list[Experiment]:
        found = list(await experiments.list())
        return found if len(found) >= count else []

    found = await eventually(look)
    assert len(found) == count
    return found


async def emptied(server: redis.Redis) -> None:
    """Return once nothing is on its way any more."""

    async def look() -> bool:
        return not server.exists(QUEUE, TAKEN)

    await eventually(look)


async def test_galileos_lpush_works_unchanged(
    server: redis.Redis, redis_server: str, experiments: Experiments
) -> None:
    port = redis_server.rpartition(":")[2]
    command = ["redis-cli", "-p", port, "LPUSH", "exp:experiments:instructions", SEED]
    await trio.run_process(command, capture_stdout=True)
    async with reading(redis_server, experiments):
        (found,) = await queued(experiments, 1)
        await emptied(server)
    assert found.status is Status.QUEUED
    assert found.name == found.exp_id
    assert (await experiments.show(found.exp_id)).task.instructions == json.loads(SEED)[
        "instructions"
    ]


async def test_items_are_queued_in_the_order_in_which_they_were_pushed(
    server: redis.Redis, redis_server: str, experiments: Experiments
) -> None:
    names = ["first", "second", "third"]
    async with reading(redis_server, experiments):
        for name in names:
            server.lpush(QUEUE, json.dumps({"instructions": "sleep 1", "name": name}))
        assert [e.name for e in await queued(experiments, 3)] == names


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("{not json", "no JSON"),
        ("\xff\0".encode("latin-1"), "no JSON"),
        ('{"instructions": "jump"}', "no command 'jump'"),
        ('{"instructions": "echo \\u0000"}', "no text"),
    ],
)
async def test_a_bad_item_is_kept_as_failed_and_the_next_is_taken(
    server: redis.Redis,
    redis_server: str,
    experiments: Experiments,
    item: str | bytes,
    reason: str,
) -> None:
    server.lpush(QUEUE, item, SEED)
    async with reading(redis_server, experiments):
        bad, good = await queued(experiments, 2)
        await emptied(server)
    assert bad.status is Status.FAILED
    assert reason in bad.error
    assert good.status is Status.QUEUED


async def test_an_id_that_is_taken_is_said_so(
    server: redis.Redis, redis_server: str, experiments: Experiments
) -> None:
    item = json.dumps({"instructions": "sleep 1", "exp_id": "mine"})
    server.lpush(QUEUE, item, item)
    async with reading(redis_server, experiments):
        first, second = await queued(experiments, 2)
        await emptied(server)
    assert (first.exp_id, first.status) == ("mine", Status.QUEUED)
    assert second.status is Status.FAILED
    assert "mine already" in second.error


async def test_what_a_killed_reader_had_taken_is_queued_once(
    server: redis.Redis, redis_server: str, experiments: Experiments
) -> None:
    item = '{"instructions": "sleep 1"}'
    server.lpush(TAKEN, json.dumps({"exp_id": "queued-before", "item": item}))
    server.lpush(TAKEN, json.dumps({"exp_id": "not-yet-queued", "item": item}))
    server.lpush(TAKEN, item)  # not even its id
    await experiments.submit({"exp_id": "queued-before", "instructions": "sleep 1"})
    async with reading(redis_server, experiments):
        await emptied(server)
    ids = {e.exp_id for e in await queued(experiments, 3)}
    assert {"queued-before", "not-yet-queued"} < ids
    assert {e.status for e in await experiments.list()} == {Status.QUEUED}


async def test_a_redis_that_is_away_is_waited_for(experiments: Experiments) -> None:
    async with reading(f"redis://127.0.0.1:{free_port()}", experiments):
        await trio.sleep(0.2)  # it has tried, and goes on


async def test_what_is_no_redis_is_refused(experiments: Experiments) -> None:
    with pytest.raises(BadInput, match="no URL of a Redis"):
        RedisQueue("http://localhost", experiments)
