"""Every machine that takes part in an experiment: the one of this process, and the load hosts'."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import structlog

from bench.lab.experiments.recording import Nodes, open_this_node
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.load_hosts import LoadHosts
from overlay.errors import MyxoError

log = structlog.get_logger()

Row = TypeVar("Row", TelemetryRow, NodeFact)


class MeasuredHosts(LoadHosts, Nodes, Protocol):
    """Load hosts that also tell what their machines do."""


class EveryNode:
    """These two as one; a machine that both measure, as a load host on this one is, is told once.

    Args:
        this: the machine of this process.
        hosts: whose silence costs their rows alone.
    """

    def __init__(self, this: Nodes, hosts: Nodes) -> None:
        self._this = this
        self._hosts = hosts

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        """Return what they do now."""
        return await _together(self._this.sample(now), lambda: self._hosts.sample(now))

    async def facts(self) -> Sequence[NodeFact]:
        """Return what they are."""
        return await _together(self._this.facts(), self._hosts.facts)


async def _together(
    this: Awaitable[Sequence[Row]], hosts: Callable[[], Awaitable[Sequence[Row]]]
) -> list[Row]:
    own = list(await this)
    known = {row.node for row in own}
    try:
        return own + [row for row in await hosts() if row.node not in known]
    except MyxoError as exc:
        log.warning("telemetry.hosts_silent", error=str(exc))
        return own


@asynccontextmanager
async def open_every_node(name: str, hosts: Nodes) -> AsyncIterator[EveryNode]:
    """Measure this machine, called by this name or its own if empty, and the load hosts'."""
    async with open_this_node(name) as this:
        yield EveryNode(this, hosts)
