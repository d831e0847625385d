"""Records what machines do while an experiment runs."""

import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import structlog
import trio

from bench.lab.experiments import node_counters, queries
from bench.lab.experiments.container_counters import ContainerCounters
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.experiments.store import Store
from bench.lab.experiments.telemetry import PERIOD_S, Meter
from overlay.errors import MyxoError

log = structlog.get_logger()


class Nodes(Protocol):
    """Machines that are measured, for one experiment."""

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        """Return what they do now."""

    async def facts(self) -> Sequence[NodeFact]:
        """Return what they are."""


OpenNodes = Callable[[], AbstractAsyncContextManager[Nodes]]


class ThisNode:
    """The machine that this process runs on, and Myxo's containers on it."""

    def __init__(self, node: str, containers: ContainerCounters) -> None:
        self._node = node
        self._meters = (Meter(node, node_counters.read), Meter(node, containers.read))
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        """Return what it does now."""

        def read() -> list[TelemetryRow]:
            return [row for meter in self._meters for row in meter.sample(now)]

        return await trio.to_thread.run_sync(read, limiter=self._one_at_a_time)

    async def facts(self) -> Sequence[NodeFact]:
        """Return what it is."""
        return await trio.to_thread.run_sync(node_counters.facts, self._node)


@asynccontextmanager
async def open_this_node(node: str = "") -> AsyncIterator[ThisNode]:
    """Measure this machine, called by its own name unless another is given."""
    containers = ContainerCounters()
    try:
        yield ThisNode(node or socket.gethostname(), containers)
    finally:
        containers.close()


async def record(
    open_nodes: OpenNodes,
    store: Store,
    exp_id: str,
    period_s: float = PERIOD_S,
    clock: Callable[[], float] = time.time,
) -> None:
    """Keep what machines are, and each period what they do, until cancelled.

    A reading that cannot be kept is lost, and said so: an experiment does not end for it.
    """
    async with open_nodes() as nodes:
        told = False
        while True:
            try:
                if not told:
                    await store.write(queries.add_facts, exp_id, await nodes.facts())
                    told = True
                rows = await nodes.sample(clock())
                await store.write(queries.add_telemetry, exp_id, rows)
            except (MyxoError, OSError) as exc:
                log.warning("telemetry.lost", exp_id=exp_id, error=str(exc))
            await trio.sleep(period_s)
