"""What an earlier run of this allocator left running or paused is taken over by this one."""

from collections.abc import Callable, Iterable

import trio

from allocator.errors import RuntimeDown
from allocator.instances.leftovers import ENGINE_RETRY_S
from allocator.runtime import Running, Runtime

Take = Callable[[Running, Runtime], None]


async def adopt_all(
    runtimes: Iterable[Runtime],
    take: Take,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Adopt from every runtime; `started` when those that are up are done, others are awaited."""
    down = [runtime for runtime in runtimes if not await _adopt(runtime, take)]
    task_status.started()
    while down:
        await trio.sleep(ENGINE_RETRY_S)
        down = [runtime for runtime in down if not await _adopt(runtime, take)]


async def _adopt(runtime: Runtime, take: Take) -> bool:
    try:
        found = await runtime.adopt()
    except RuntimeDown:
        return False
    for running in found:
        take(running, runtime)
    return True
