"""Traces of all load hosts, taken to where whoever commands wants them.

Each host hands its traces out in batches, and forgets one when it is asked for the next, which is
when it was written here. So what a lost connection, or a sink that fails, holds up is handed out
again; only what a host had no room for is gone, which is counted and told.
"""

from collections.abc import Callable

import structlog
import trio

from bench.lab.errors import LabError
from bench.lab.hosts.messages import Flushed, FlushTraces, TakeTraces, Traces
from bench.lab.hosts.network import HostNetwork, Run
from bench.lab.hosts.orders import Orders
from bench.lab.request_trace import TraceSink

PAUSE_S = 0.1
"""Between two batches of one host, so that there is something in each."""

RETRY_S = 1.0
"""After a sink or a host has failed."""

log = structlog.get_logger()


class Collector:
    """Takes the traces of every host that is there, or comes.

    Args:
        network: the way to the hosts.
        sink: where traces go.
        tell: takes events.
    """

    def __init__(
        self, network: HostNetwork, sink: TraceSink, tell: Callable[[str, str], None]
    ) -> None:
        self._network = network
        self._orders = Orders(network)
        self._sink = sink
        self._tell = tell
        self._next: dict[Run, int] = {}
        self._dropped: dict[Run, int] = {}
        self._taking: set[Run] = set()
        self._progress = trio.Event()

    async def run(self) -> None:
        """Take traces until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for host, run in self._network.hosts().items():
                    if run not in self._taking:
                        self._taking.add(run)
                        nursery.start_soon(self._take_all, host, run)
                await self._network.changed()

    async def flush(self) -> None:
        """Return once the traces of requests that have ended are taken, where hosts are there."""
        async with trio.open_nursery() as nursery:
            for host, run in self._network.hosts().items():
                nursery.start_soon(self._flush, host, run)

    async def _flush(self, host: str, run: Run) -> None:
        try:
            flushed = await self._orders.give(host, FlushTraces(), Flushed, run)
        except LabError as exc:
            log.warning("traces.left", host=host, error=str(exc))
            return
        while self._next.get(run, 0) < flushed.end and self._network.hosts().get(host) == run:
            with trio.move_on_after(RETRY_S):
                await self._progress.wait()

    async def _take_all(self, host: str, run: Run) -> None:
        try:
            while self._network.hosts().get(host) == run:
                try:
                    await self._take(host, run)
                except LabError as exc:
                    log.debug("traces.not_taken", host=host, error=str(exc))
                    await trio.sleep(RETRY_S)
                await trio.sleep(PAUSE_S)
        finally:
            self._taking.discard(run)

    async def _take(self, host: str, run: Run) -> None:
        order = TakeTraces(after=self._next.get(run, 0))
        taken = await self._orders.give(host, order, Traces, run)
        if taken.traces:
            await self._sink.write(taken.traces)
        self._next[run] = taken.after
        self._progress.set()
        self._progress = trio.Event()
        lost = taken.dropped - self._dropped.get(run, 0)
        if lost > 0:
            self._dropped[run] = taken.dropped
            self._tell("traces.lost", f"{host} had no room for {lost} traces")
