"""The runtimes of a machine: which there are, and how long they run."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.engine.sandbox_pool import SandboxPlan
from allocator.errors import RuntimeDown
from allocator.processes.cgroups import delegated
from allocator.processes.runtime import ProcessRuntime
from allocator.runtime import Runtime
from allocator.settings import AllocatorSettings
from overlay.names import PeerId


@asynccontextmanager
async def open_runtimes(
    settings: AllocatorSettings, network: str, peer: PeerId
) -> AsyncIterator[Mapping[str, Runtime]]:
    """Yield the runtimes by name; they run until the block has ended, its cleanup included.

    Args:
        settings: say which are wanted.
        network: the network's id, which containers are marked with.
        peer: this allocator, likewise.

    Raises:
        RuntimeDown: Docker was asked for and does not answer.
    """
    runtimes: dict[str, Runtime] = {}
    if settings.runtime in {"auto", "docker"}:
        runtimes["docker"] = DockerRuntime(Ownership(network, peer), _sandbox_plan(settings, peer))
    if settings.runtime in {"auto", "process"}:
        directory = settings.state_dir / "instances" / peer
        runtimes["process"] = ProcessRuntime(directory, delegated())
    async with trio.open_nursery() as nursery:
        scopes = [await nursery.start(_hold, runtime.run) for runtime in runtimes.values()]
        try:
            problem = "" if settings.runtime != "docker" else runtimes["docker"].health().problem
            if problem:
                raise RuntimeDown(problem)
            yield runtimes
        finally:
            for scope in scopes:
                scope.cancel()


async def _hold(
    run: Callable[..., Awaitable[None]],
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run `run`; once it has started only its own scope, which is reported, ends it."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            scope.shield = True
            task_status.started(scope)


def _sandbox_plan(settings: AllocatorSettings, peer: PeerId) -> SandboxPlan:
    """Return how sandboxes are made; the directory's name is short, as a socket's path must be."""
    return SandboxPlan(
        size=settings.sandboxes,
        directory=settings.state_dir / "sandboxes" / peer[-8:],
        proxy_port=settings.proxy_port,
    )
