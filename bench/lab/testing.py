"""Load hosts without machines, for tests of what commands them: same calls, same errors.

Requests are answered after `latency_s` by nobody, and their traces are as those of real clients.
All waits are trio's, so under a mock clock a minute of load takes no time.
"""

import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from bench.lab.errors import LoadFailed, NoSuchHost
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.load_hosts import ClientStatus, InterArrival, Spawn
from bench.lab.request_trace import RequestTrace, TraceSink

T = TypeVar("T")

LATENCY_S = 0.001
OK = 200


class KeptTraces:
    """A `TraceSink` that has all that was written to it."""

    def __init__(self) -> None:
        self.traces: list[RequestTrace] = []

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """Keep these."""
        self.traces += traces


@dataclass(slots=True)
class _Client:
    id: str
    host: str
    what: Spawn
    rate: float = 0.0
    sent: int = 0


class InMemoryLoadHosts:
    """A `LoadHosts`; made by `open_in_memory`."""

    def __init__(
        self,
        names: Sequence[str],
        sink: TraceSink,
        nursery: trio.Nursery,
        *,
        latency_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._names = set(names)
        self._sink = sink
        self._nursery = nursery
        self._latency_s = latency_s
        self._clock = clock
        self._clients: dict[str, _Client] = {}
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._scopes: dict[str, trio.CancelScope] = {}

    async def sample(self, now: float) -> Sequence[TelemetryRow]:
        """Return one row for each host: they are no machines, and have nothing to do."""
        await trio.lowlevel.checkpoint()
        return [TelemetryRow(now, "cpu", "", name, 0.0) for name in sorted(self._names)]

    async def facts(self) -> Sequence[NodeFact]:
        """Return one fact for each host."""
        await trio.lowlevel.checkpoint()
        return [NodeFact(name, "hostname", name) for name in sorted(self._names)]

    async def hosts(self, pattern: str = ".*") -> Sequence[str]:
        """See `LoadHosts`."""
        await trio.lowlevel.checkpoint()
        found = sorted(name for name in self._names if re.fullmatch(pattern, name))
        if not found:
            raise NoSuchHost(f"no load host is called {pattern!r}")
        return found

    async def clients(self, pattern: str = ".*") -> Sequence[ClientStatus]:
        """See `LoadHosts`."""
        hosts = await self.hosts(pattern)
        return [
            ClientStatus(c.id, c.host, c.what.service, c.rate, c.sent, failed=0, queue=0)
            for c in self._clients.values()
            if c.host in hosts
        ]

    async def spawn(self, pattern: str, what: Spawn) -> Sequence[str]:
        """See `LoadHosts`."""
        ids = []
        for host in await self.hosts(pattern):
            for _ in range(what.num):
                number = self._numbers[host, what.service]
                self._numbers[host, what.service] += 1
                client = _Client(f"{host}:{what.service}:{number}", host, what)
                self._clients[client.id] = client
                ids.append(client.id)
        return ids

    async def rps(self, pattern: str, service: str, rate: float, exp_id: str | None = None) -> None:
        """See `LoadHosts`."""
        for host in await self.hosts(pattern):
            chosen = self._chosen(host, service, exp_id)
            for client in chosen:
                self._pace(client, rate / len(chosen))

    async def request(
        self, clients: Sequence[str], count: int | None, inter_arrival: InterArrival | None
    ) -> None:
        """See `LoadHosts`; a distribution is drawn from under its name in `random`."""
        gone = [client for client in clients if client not in self._clients]
        if gone:
            raise LoadFailed(f"there is no client {gone[0]}")
        async with trio.open_nursery() as nursery:
            for client in [self._clients[one] for one in clients]:
                gap = _gaps(inter_arrival, client.what.seed)
                nursery.start_soon(self._send, client, count, gap)

    async def close(self, pattern: str, service: str, exp_id: str | None = None) -> None:
        """See `LoadHosts`."""
        for host in await self.hosts(pattern):
            for client in self._chosen(host, service, exp_id):
                self._pace(client, 0.0)
                del self._clients[client.id]

    async def flush(self) -> None:
        """See `LoadHosts`; each is written as it ends."""
        await trio.lowlevel.checkpoint()

    def lose(self, host: str) -> None:
        """Have a host be gone with its clients."""
        self._names.discard(host)
        for client in [c for c in self._clients.values() if c.host == host]:
            self._pace(client, 0.0)
            del self._clients[client.id]

    def _chosen(self, host: str, service: str, exp_id: str | None) -> list[_Client]:
        found = [
            c
            for c in self._clients.values()
            if c.host == host and c.what.service == service and exp_id in {None, c.what.exp_id}
        ]
        if not found:
            raise LoadFailed(f"{host} has no clients of {service}: spawn some first")
        return found

    def _pace(self, client: _Client, rate: float) -> None:
        if client.id in self._scopes:
            self._scopes.pop(client.id).cancel()
        client.rate = rate
        if rate > 0:
            self._scopes[client.id] = scope = trio.CancelScope()
            self._nursery.start_soon(self._send_at, client, 1 / rate, scope)

    async def _send_at(self, client: _Client, gap_s: float, scope: trio.CancelScope) -> None:
        with scope:
            await self._send(client, None, lambda: gap_s)

    async def _send(
        self, client: _Client, count: int | None, gap: Callable[[], float] | None
    ) -> None:
        due = trio.current_time()
        sent = 0
        while count is None or sent < count:
            await trio.sleep_until(due)
            with trio.CancelScope(shield=True):
                await self._send_one(client)
            sent += 1
            due = trio.current_time() if gap is None else due + gap()

    async def _send_one(self, client: _Client) -> None:
        created = self._clock()
        await trio.sleep(self._latency_s)
        trace = RequestTrace(
            f"{client.id}:{client.sent}",
            client.id,
            client.what.service,
            client.host,
            created,
            created,
            created + self._latency_s,
            OK,
            f"nobody@{client.host}",
            client.what.exp_id,
        )
        client.sent += 1
        await self._sink.write([trace])


def _gaps(inter_arrival: InterArrival | None, seed: int | None) -> Callable[[], float] | None:
    if inter_arrival is None:
        return None
    if isinstance(inter_arrival, tuple):
        name, *parameters = inter_arrival
        draw = getattr(random.Random(seed), name)  # noqa: S311
        return lambda: float(draw(*parameters))
    gap_s = inter_arrival
    return lambda: gap_s


@asynccontextmanager
async def open_in_memory(
    names: Sequence[str],
    sink: TraceSink,
    *,
    latency_s: float = LATENCY_S,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[InMemoryLoadHosts]:
    """Yield load hosts of these names, whose traces go to `sink`."""
    async with trio.open_nursery() as nursery:
        yield InMemoryLoadHosts(names, sink, nursery, latency_s=latency_s, clock=clock)
        nursery.cancel_scope.cancel()


async def eventually(look: Callable[[], Awaitable[T | None]], timeout_s: float = 10.0) -> T:
    """Return what `look` finds in another process or thread, once that is true."""
    with trio.fail_after(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110  (nobody here could set an event)
            await trio.sleep(0.01)
    return found
