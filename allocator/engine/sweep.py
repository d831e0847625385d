"""What an earlier run left and nobody can use is removed, behind the starts of this one.

An allocator that was killed, or stopped with more instances than the engine removes in its time,
leaves hundreds of containers. To remove one takes the engine as long as to start one; so a few go
at a time, and who waits for the rest does not wait for ever.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import structlog
import trio
from docker.errors import APIError

from allocator.engine.client import remove, say
from allocator.engine.sandbox_pool import Call
from allocator.errors import RuntimeDown

AT_ONCE = 4
"""A quarter of the calls that the engine gets at once: starts go on beside."""

PATIENCE_S = 5.0
"""How long an allocator that starts waits; what is left then goes while it serves."""

RETRY_S = 5.0
"""Between attempts where the engine refuses, or is down."""

log = structlog.get_logger()


class Sweep:
    """Removes containers while `run` runs.

    Args:
        call: runs a function with the engine's client in a thread.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._rest: dict[str, None] = {}
        self._change = trio.Event()

    async def remove(self, containers: Iterable[str]) -> None:
        """Have containers removed, in this order; return when they are, or after some seconds."""
        self._rest |= dict.fromkeys(containers)
        self._changed()
        with trio.move_on_after(PATIENCE_S):
            while self._rest:
                await self._change.wait()
        if self._rest:
            log.info("sweep.goes_on", containers=len(self._rest))

    async def run(self) -> None:
        """Remove what there is to remove until cancelled."""
        while True:
            while not self._rest:
                await self._change.wait()
            todo, failed = iter(list(self._rest)), set[str]()
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(self._remove_in_turn, todo, failed)
            if failed:
                await trio.sleep(RETRY_S)

    async def _remove_in_turn(self, todo: Iterator[str], failed: set[str]) -> None:
        for container in todo:
            try:
                await self._call(partial(remove, name=container))
            except (APIError, RuntimeDown) as exc:
                log.info("sweep.not_removed", container=container[:12], error=say(exc))
                failed.add(container)
                continue
            del self._rest[container]
            self._changed()

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()
