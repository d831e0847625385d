"""Traces on their way from a client to a sink: a bounded buffer that is emptied in batches."""

from collections.abc import Sequence

import trio

from bench.lab.request_trace import RequestTrace, TraceSink

EVERY = 256
"""Traces that are written at once: a million of them lose no more when the process is killed."""

EVERY_S = 1.0
"""A trace is written by then, however few there are."""

MOST_HELD = 200_000
"""Of traces that a slow sink has not taken, some 100 MB; more are dropped and counted."""


class TraceBuffer:
    """Traces that are not written yet.

    Attributes:
        lost: traces that were dropped because the sink did not take them in time.
    """

    def __init__(self, sink: TraceSink) -> None:
        self._sink = sink
        self._held: list[RequestTrace] = []
        self._enough = trio.Event()
        self._one_writes = trio.Lock()
        self.lost = 0

    def add(self, trace: RequestTrace) -> None:
        """Take a trace; never waits."""
        held = self._held
        if len(held) >= MOST_HELD:
            self.lost += 1
            return
        held.append(trace)
        if len(held) == EVERY:
            self._enough.set()

    async def run(self) -> None:
        """Write as traces come, for ever."""
        while True:
            with trio.move_on_after(EVERY_S):
                await self._enough.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what is there now."""
        async with self._one_writes:
            taken: Sequence[RequestTrace] = self._held
            self._held, self._enough = [], trio.Event()
            if taken:
                await self._sink.write(taken)
