"""A client: sends requests when they are due, whatever the answers do.

Its loop runs in trio and yet does not leave each wait to it: trio's clock has whole milliseconds,
and a turn of its loop costs as much as a request. So waits below `SHORT_S` are spent in `select`,
whose clock has microseconds, and other tasks get their turn every `TURN_S`. Whatever falls due or
comes in meanwhile is done at once, so that the loop gets cheaper a request the more there are.
One client should be alone in its process: two would wait for each other.
"""

import select
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from math import inf
from pathlib import Path
from random import Random

import trio

from bench.lab.load_hosts import InterArrival
from bench.lab.loading.answers import instance_of
from bench.lab.loading.arrivals import CONSTANT, Arrivals, arrivals_of
from bench.lab.loading.link import Place, place_of
from bench.lab.loading.messages import Message, message
from bench.lab.loading.request import Request
from bench.lab.loading.row import Row
from bench.lab.loading.sender import DEFAULT_LIMITS, Limits, Sender
from bench.lab.loading.streams import Closed, Paced, Stream, Timed, following
from bench.lab.loading.tally import Tally
from bench.lab.loading.target import Target
from bench.lab.loading.traces import TraceBuffer
from bench.lab.request_trace import FAILED, RequestTrace, TraceSink
from overlay.http.head import ResponseHead

SHORT_S = 0.002
"""Below twice what trio's clock rounds to."""

MARGIN_S = 0.0015
"""How much earlier than a request is due trio is to wake up."""

TURN_S = 0.002
"""After which other tasks get their turn."""

BATCH = 64
"""Requests that are sent before answers are looked at again."""

SWEEP_S = 0.25
"""Between two looks for what has waited too long."""

FLUSH_TIMEOUT_S = 10.0
"""For the last traces of a load that is ended."""

_SLACK = Path("/proc/self/timerslack_ns")


class Client:
    """Sends requests to one target; made by `open_client`.

    Attributes:
        tally: what became of all requests so far.
        client_id: its name in traces.
    """

    def __init__(
        self,
        place: Place,
        next_message: Callable[[], Message],
        *,
        target: Target,
        client_id: str,
        host: str,
        exp_id: str,
        traces: TraceBuffer | None,
        arrivals: Arrivals,
        random: Random,
        limits: Limits,
    ) -> None:
        self.tally = Tally()
        self.client_id = client_id
        self._next_message = next_message
        self._service, self._host, self._exp_id = target.name, host, exp_id
        self._traces = traces
        self._random = random
        self._sender = Sender(place, limits, self.tally, self._over)
        self._paced = Paced(arrivals, random)
        self._rows: list[Row] = [Row(self._paced)]
        self._endless: list[Row] = []
        self._number = 0
        self._nap = trio.CancelScope()
        self._to_wall_s = time.time() - time.monotonic()

    @property
    def rate(self) -> float:
        """Return the requests a second that `set_rate` asked for."""
        return self._paced.rate

    @property
    def lost_traces(self) -> int:
        """Return how many traces were dropped because the sink was too slow."""
        return 0 if self._traces is None else self._traces.lost

    @property
    def queue(self) -> int:
        """Return how many requests are due and not yet sent."""
        return self._sender.waiting

    def set_rate(self, rate: float) -> None:
        """Have `rate` requests a second be due from now on, until the next call.

        At 0 nothing more is due, and every `request` without a count ends.
        """
        now = time.monotonic()
        self._send_due(now, inf)
        self._paced.change(rate, now)
        if rate == 0:
            self._stop(self._endless)
        self._nap.cancel()

    async def request(
        self, count: int | None = None, inter_arrival: InterArrival | None = None, at_once: int = 1
    ) -> None:
        """Send `count` requests and return when all are answered or failed.

        Args:
            count: how many; None for no end but `set_rate(0)` or the client's.
            inter_arrival: seconds between them, or a distribution; None sends each as soon as one
                before it is over.
            at_once: how many are under way where `inter_arrival` is None.

        Raises:
            BadInput: there is no such distribution.
        """
        began = time.monotonic()
        if inter_arrival is None:
            await self._send(Closed(count, at_once, began), endless=count is None)
        else:
            arrivals = arrivals_of(inter_arrival)
            stream = following(arrivals, count, self._random, began)
            await self._send(stream, endless=count is None)

    async def run(self, times: Iterator[float], began: float | None = None) -> None:
        """Send a request at each of these times and return when all are answered or failed.

        Args:
            times: in seconds from the beginning, in order.
            began: the beginning, by `time.monotonic`; now if None.
        """
        await self._send(Timed(times, time.monotonic() if began is None else began))

    def stop(self) -> None:
        """Have nothing more be due."""
        self.set_rate(0)
        self._stop(self._rows)

    async def flush(self) -> None:
        """Return once the traces of all requests that are over were written."""
        if self._traces is not None:
            await self._traces.flush()

    async def finish(self) -> None:
        """Have nothing more be due, and return when what is under way is over."""
        self.stop()
        for row in list(self._rows):
            await row.done.wait()

    async def keep_sending(self) -> None:
        """Send what is due and take answers, for ever; `open_client` runs this."""
        turn_at = sweep_at = 0.0
        while True:
            now = time.monotonic()
            self._send_due(now, BATCH)
            self._sender.poll()
            if now >= sweep_at:
                self._sender.sweep(now)
                sweep_at = now + SWEEP_S
            due = min([row.stream.due for row in self._rows])  # an answer may have made one due
            left = min(due, sweep_at) - time.monotonic()
            if left >= SHORT_S:
                await self._rest(left - MARGIN_S)
                turn_at = time.monotonic() + TURN_S
            elif now >= turn_at:
                await trio.lowlevel.checkpoint()
                turn_at = time.monotonic() + TURN_S
            elif left > 0:
                select.select((self._sender,), (), (), left)

    def abandon(self) -> None:
        """Give up what is under way, and have nothing more be due."""
        self._stop(self._rows)
        self._sender.abandon()

    def close(self) -> None:
        """Give up what is under way and close all connections; `open_client` does this."""
        self._sender.close()

    async def _send(self, stream: Stream, *, endless: bool = False) -> None:
        row = Row(stream)
        self._rows.append(row)
        if endless:
            self._endless.append(row)
        self._nap.cancel()
        try:
            await row.done.wait()
        finally:
            row.stop()
            self._rows.remove(row)
            if endless:
                self._endless.remove(row)

    async def _rest(self, length_s: float) -> None:
        """Wait until an answer comes, or `length_s` are over, or something else is asked for."""
        with trio.CancelScope(deadline=trio.current_time() + length_s) as self._nap:
            await trio.lowlevel.wait_readable(self._sender)

    def _send_due(self, now: float, most: float) -> None:
        """Send at most so many of each row's requests that are due."""
        for row in self._rows:
            stream, left = row.stream, most
            while stream.due <= now and left > 0:
                self._number += 1
                request = Request(self._number, stream.due, self._next_message(), row)
                row.taken()
                self._sender.send(request)
                left -= 1

    def _over(self, request: Request, head: ResponseHead | None, now: float) -> None:
        request.row.over(now)
        if self._traces is not None:
            self._traces.add(self._trace(request, head, now))

    def _trace(self, request: Request, head: ResponseHead | None, now: float) -> RequestTrace:
        to_wall_s = self._to_wall_s
        return RequestTrace(
            f"{self.client_id}:{request.number}",
            self.client_id,
            self._service,
            self._host,
            request.due + to_wall_s,
            (request.sent or now) + to_wall_s,
            now + to_wall_s,
            FAILED if head is None else head.status,
            "" if head is None else instance_of(head),
            self._exp_id,
        )

    @staticmethod
    def _stop(rows: list[Row]) -> None:
        for row in rows:
            row.stop()


@asynccontextmanager
async def open_client(
    target: Target,
    next_message: Callable[[], Message] | None = None,
    *,
    client_id: str = "client",
    host: str = "",
    exp_id: str = "",
    sink: TraceSink | None = None,
    arrivals: Arrivals = CONSTANT,
    seed: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    verify: bool = True,
) -> AsyncIterator[Client]:
    """Run a client for the length of a block, which waits at its end for what is under way.

    Args:
        target: to whom it sends; `target.target_of` makes one of a URL or a service's name.
        next_message: makes each request; else all are a GET of the target.
        client_id: its name in traces, such as `HOST:SERVICE:N`.
        host: the load host, for traces.
        exp_id: the experiment, for traces.
        sink: where traces go; None keeps none.
        arrivals: how requests follow each other at a rate, of which only the shape counts.
        seed: of every draw.
        limits: what it may use.
        verify: whether the certificate of an https target must be good.

    Raises:
        LoadFailed: the target's name is unknown.
    """
    place = await place_of(target, verify=verify)
    if next_message is None:
        next_message = repeat(
            message(target, explained=target.of_myxo and sink is not None)
        ).__next__
    traces = None if sink is None else TraceBuffer(sink)
    client = Client(
        place,
        next_message,
        target=target,
        client_id=client_id,
        host=host,
        exp_id=exp_id,
        traces=traces,
        arrivals=arrivals,
        random=Random(seed),  # noqa: S311  (load is no secret)
        limits=limits,
    )
    with suppress(OSError):
        _SLACK.write_text("1")  # else each wait in `select` may be 50 µs longer
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.keep_sending)
            if traces is not None:
                nursery.start_soon(traces.run)
            yield client
            await client.finish()
            nursery.cancel_scope.cancel()
    finally:
        client.close()
        if traces is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT_S):
                await traces.flush()
