"""Traces that a load host keeps by itself, in a file or a database, instead of handing them out."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from bench.lab.errors import LabError
from bench.lab.request_trace import RequestTrace, TraceSink

MAX_BATCHES = 2_000
"""Of up to 100 traces that wait for a sink; some 100 MB."""

RETRY_S = 1.0

log = structlog.get_logger()


class Recorder:
    """Takes traces at once and writes them when it can; made by `open_recorder`.

    Attributes:
        dropped: traces that did not fit because the sink was too slow, or failed for too long.
    """

    def __init__(self, sink: TraceSink) -> None:
        self.dropped = 0
        self._sink = sink
        self._put, self._taken = trio.open_memory_channel[Sequence[RequestTrace]](MAX_BATCHES)

    def take(self, traces: Sequence[RequestTrace]) -> None:
        """Keep traces."""
        try:
            self._put.send_nowait(traces)
        except trio.WouldBlock:
            if not self.dropped:
                log.warning("traces.dropped", because="they are not written as fast as they come")
            self.dropped += len(traces)

    def finish(self) -> None:
        """Have `run` end once everything is written."""
        self._put.close()

    async def run(self) -> None:
        """Write what was taken, until `finish` is called and all is written."""
        async for traces in self._taken:
            await self._write(traces)

    async def _write(self, traces: Sequence[RequestTrace]) -> None:
        while True:
            try:
                await self._sink.write(traces)
            except LabError as exc:
                log.warning("traces.not_written", error=str(exc))
                await trio.sleep(RETRY_S)
            else:
                return


@asynccontextmanager
async def open_recorder(sink: TraceSink, *, last_s: float = 10.0) -> AsyncIterator[Recorder]:
    """Yield what takes traces for `sink`; at the end it has `last_s` seconds for those it holds."""
    recorder = Recorder(sink)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)

        async def run() -> None:
            with scope:
                await recorder.run()

        nursery.start_soon(run)
        try:
            yield recorder
        finally:
            recorder.finish()
            scope.deadline = trio.current_time() + last_s
