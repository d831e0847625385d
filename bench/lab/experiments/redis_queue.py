"""Experiments out of a list in Redis, where Galileo's users push them: the oldest first.

An item is moved aside in Redis before it is queued in the database, and removed only then, so a
kill in between loses none. It gets its id while it lies there, so that it is not queued twice by
who finds it there at the next start.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import redis
import structlog
import trio

from bench.lab.errors import BadInput, IdTaken, QueueFull, StoreFailed
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.submission import read_submission

QUEUE = "exp:experiments:instructions"
TAKEN = "exp:experiments:instructions:taken"
"""Items on their way, each as `{"exp_id": …, "item": …}`, or for a moment as it came."""

WAIT_S = 1.0
"""How long Redis is asked to wait for an item; so late at most does this end."""

RETRY_S = 2.0
TIMEOUT_S = 10.0

T = TypeVar("T")

log = structlog.get_logger()


class _Marked(NamedTuple):
    exp_id: str
    item: str


class RedisQueue:
    """Queues what comes in Redis at `url`, such as `redis://localhost`.

    Raises:
        BadInput: that is no such URL.
    """

    def __init__(self, url: str, experiments: Experiments) -> None:
        try:
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        except ValueError as exc:
            raise BadInput(f"{url!r} is no URL of a Redis, such as redis://localhost:6379") from exc
        self._experiments = experiments
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Queue what comes until cancelled; a Redis or a database that is away is waited for."""
        try:
            while True:
                try:
                    await self._recover()
                    while True:
                        await self._take()
                except (redis.RedisError, StoreFailed, QueueFull) as exc:
                    log.warning("redis.waits", error=str(exc), retry_s=RETRY_S)
                    await trio.sleep(RETRY_S)
        finally:
            self._redis.close()

    async def _recover(self) -> None:
        """Queue what an earlier process had taken and may not have queued."""
        for entry in await self._do(partial(self._redis.lrange, TAKEN, 0, -1)):
            if (marked := _read(entry)) is None:
                await self._queue(entry)
            else:
                await self._queue_marked(marked, entry, again=True)

    async def _take(self) -> None:
        """Queue the next item, if one comes in time."""
        move = partial(self._redis.blmove, QUEUE, TAKEN, WAIT_S, src="RIGHT", dest="LEFT")
        item = await self._do(move)
        if item is not None:
            await self._queue(item)

    async def _queue(self, item: bytes) -> None:
        marked = _Marked(await self._experiments.free_id(), item.decode(errors="replace"))
        entry = json.dumps(marked._asdict()).encode()
        await self._do(partial(self._replace, item, entry))
        await self._queue_marked(marked, entry, again=False)

    async def _queue_marked(self, marked: _Marked, entry: bytes, *, again: bool) -> None:
        """Have an item in the database, and then not in Redis; `again` if it may be there."""
        try:
            await self._experiments.queue(read_submission(marked.item), marked.exp_id)
        except BadInput as exc:
            if not (again and isinstance(exc, IdTaken)):
                await self._reject(marked, str(exc))
        await self._do(partial(self._redis.lrem, TAKEN, 1, entry))

    async def _reject(self, marked: _Marked, why: str) -> None:
        log.warning("redis.refused", exp_id=marked.exp_id, error=why)
        with suppress(IdTaken):
            await self._experiments.reject(marked.item, why, marked.exp_id)

    def _replace(self, old: bytes, new: bytes) -> None:
        with self._redis.pipeline(transaction=True) as both:
            both.lrem(TAKEN, 1, old)
            both.lpush(TAKEN, new)
            both.execute()

    async def _do(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._one_at_a_time)


def _read(entry: bytes) -> _Marked | None:
    """Return an item that has its id, or None if it lies there as it came."""
    try:
        kept = json.loads(entry)
        return _Marked(str(kept["exp_id"]), str(kept["item"]))
    except (ValueError, KeyError, TypeError):
        return None
