"""All load hosts of a network, commanded together.

Which hosts are there is what the overlay's membership says, which finds a dead one in three
seconds. What they were told is kept: where a host is lost, others send its part (`held_rates.py`).
Requests by number are another matter, because how many of them a lost host has sent can never be
known: whoever waits for those is told that it is lost.

This holds for as long as the fleet is open; hosts go on with what they were told after that.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import trio
from pydantic import BaseModel, ValidationError

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.hosts.apps import Deployed, Package
from bench.lab.hosts.choosing import matching, pack
from bench.lab.hosts.collecting import Collector
from bench.lab.hosts.held_rates import HeldRates, Tell
from bench.lab.hosts.messages import (
    Answered,
    App,
    AskOnce,
    AwaitTask,
    Begun,
    CloseClients,
    Done,
    Look,
    Looked,
    Measure,
    Measured,
    Progress,
    Route,
    Routed,
    SendRequests,
    SetRate,
    SpawnClients,
    Spawned,
    Work,
)
from bench.lab.hosts.network import HostNetwork, Run
from bench.lab.hosts.orders import Orders, OrdersFailed
from bench.lab.load_hosts import ClientStatus, InterArrival, Spawn
from myxo.rtable import Answer

M = TypeVar("M", bound=BaseModel)


class Fleet:
    """Implements `LoadHosts`.

    Args:
        network: the way to the hosts.
        apps: the custom clients that the person who commands has deployed.
        tell: takes events.
        collector: takes the traces of the requests; None if nobody does.
    """

    def __init__(
        self, network: HostNetwork, apps: Deployed, tell: Tell, collector: Collector | None
    ) -> None:
        self._network = network
        self._orders = Orders(network)
        self._apps = apps
        self._collector = collector
        self._held = HeldRates(network, self._orders, tell)

    async def hosts(self, pattern: str = ".*") -> list[str]:
        """See `LoadHosts`."""
        return self._matching(pattern)

    async def clients(self, pattern: str = ".*") -> list[ClientStatus]:
        """See `LoadHosts`."""
        looked = await self._look(self._matching(pattern))
        return [
            ClientStatus(r.client, host, r.service, r.rps, r.sent, r.failed, r.queue)
            for host, answer in looked.items()
            for r in answer.clients
        ]

    async def broken(self, pattern: str = ".*") -> list[str]:
        """Return what is told of the last clients that ended although they were not to."""
        looked = await self._look(self._matching(pattern))
        return [line for answer in looked.values() for line in answer.broken]

    async def spawn(self, pattern: str, what: Spawn) -> list[str]:
        """See `LoadHosts`; where one host fails the clients on the others stay."""
        return await self._spawn(dict.fromkeys(self._matching(pattern), what.num), what)

    async def spawn_spread(self, pattern: str, what: Spawn) -> list[str]:
        """Start `what.num` clients in all, each where there are the fewest; return their ids."""
        looked = await self._look(self._matching(pattern))
        loads = {host: len(answer.clients) for host, answer in looked.items()}
        return await self._spawn(pack(loads, what.num), what)

    async def rps(self, pattern: str, service: str, rate: float, exp_id: str | None = None) -> None:
        """See `LoadHosts`; `LoadFailed` too where a host has no clients of the service."""
        chosen = self._matching(pattern)
        order = _checked(SetRate, service=service, exp_id=exp_id, rate=rate)
        async with self._held.setting:
            self._held.forget(self._meant(pattern), service, exp_id)
            self._held.rates.tell(chosen, service, exp_id, rate)
            try:
                await self._orders.give_each(dict.fromkeys(chosen, order), Done, but_lost=True)
            except OrdersFailed as exc:
                self._held.rates.forget(exc.hosts, service, exp_id)  # they refuse, and send nothing
                raise
            await self._held.settle()

    async def rps_of(self, clients: Sequence[str], rate: float) -> None:
        """Have each of these clients send `rate` requests a second.

        Raises:
            LoadFailed: some do not; the others do.
        """
        for ids in by_host(clients).values():
            _checked(SetRate, clients=tuple(ids), rate=rate * len(ids))
        async with self._held.setting:
            refused = await self._held.tell_clients(clients, rate)
        if refused:
            raise LoadFailed("; ".join(dict.fromkeys(refused.values())))

    async def request(
        self, clients: Sequence[str], count: int | None, inter_arrival: InterArrival | None
    ) -> None:
        """See `LoadHosts`."""
        said = {"count": count, "inter_arrival": _as_sent(inter_arrival)}
        orders = {
            host: _checked(SendRequests, clients=tuple(ids), **said)
            for host, ids in by_host(clients).items()
        }
        runs = dict(self._network.hosts())
        begun = await self._orders.give_each(orders, Begun)
        troubles: list[str] = []

        async def wait(host: str, task: int) -> None:
            try:
                trouble = await self._wait(host, runs.get(host), task)
            except LoadFailed as exc:
                trouble = f"{host}: {exc}"
            if trouble:
                troubles.append(trouble)

        async with trio.open_nursery() as nursery:
            for host, answer in begun.items():
                nursery.start_soon(wait, host, answer.task)
        if troubles:
            raise LoadFailed("; ".join(troubles))

    async def close(self, pattern: str, service: str, exp_id: str | None = None) -> None:
        """See `LoadHosts`; `LoadFailed` too where a host has no clients of the service."""
        order = _checked(CloseClients, service=service, exp_id=exp_id)
        async with self._held.setting:
            self._held.forget(self._meant(pattern), service, exp_id, closed=True)
            await self._held.settle()
            chosen = dict.fromkeys(self._matching(pattern), order)
            await self._orders.give_each(chosen, Done, but_lost=True)

    async def flush(self) -> None:
        """See `LoadHosts`; hosts that are lost keep theirs until they are back."""
        if self._collector is not None:
            await self._collector.flush()

    async def close_clients(self, clients: Sequence[str]) -> None:
        """End these clients after what they have under way."""
        orders = {
            host: _checked(CloseClients, clients=tuple(ids))
            for host, ids in by_host(clients).items()
        }
        async with self._held.setting:
            self._held.by_id.closed(clients)
            await self._held.settle()
            await self._orders.give_each(orders, Done)

    async def ask(self, pattern: str, what: Spawn) -> Answered:
        """Have the first host that matches send one request; return what was answered."""
        host = self._matching(pattern)[0]
        work, package = self._work(what)
        return await self._orders.give_with_app(host, AskOnce(work=work), Answered, package)

    async def sample(self, now: float) -> list[TelemetryRow]:
        """Return what the hosts' machines do; with `facts`, be `recording.Nodes`."""
        return [row for said in await self._measured(now) for row in said.rows]

    async def facts(self) -> list[NodeFact]:
        """Return what the hosts' machines are."""
        return [
            fact for said in await self._measured(time.time(), facts=True) for fact in said.facts
        ]

    async def route(self, command: Mapping[str, Any]) -> list[Answer]:
        """Do a command on the routing tables of all hosts' proxies; be an `rtable.Ask`."""
        order = _checked(Route, command=dict(command))
        routed = await self._orders.give_each(dict.fromkeys(self._matching(".*"), order), Routed)
        return [
            {**answer, "proxy": f"{answer['proxy']} of {host}"}
            for host, said in routed.items()
            for answer in said.answers
        ]

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See to it that rates hold while hosts come and go, until cancelled."""
        await self._held.watch(task_status=task_status)

    async def _spawn(self, numbers: Mapping[str, int], what: Spawn) -> list[str]:
        work, package = self._work(what)
        orders = {
            host: _checked(SpawnClients, num=num, work=work, traced=self._collector is not None)
            for host, num in numbers.items()
        }
        spawned = await self._orders.give_each(orders, Spawned, package)
        ids = [client for answer in spawned.values() for client in answer.clients]
        self._held.by_id.rates.spawned(ids, what.exp_id)
        return ids

    async def _wait(self, host: str, run: Run | None, task: int) -> str:
        """Wait until a host's clients have done their part; return what went wrong."""
        while True:
            progress = await self._orders.give(host, AwaitTask(task=task), Progress, run)
            if progress.ended:
                return progress.trouble

    async def _look(self, hosts: Iterable[str]) -> dict[str, Looked]:
        return await self._orders.give_each(dict.fromkeys(hosts, Look()), Looked, but_lost=True)

    async def _measured(self, now: float, *, facts: bool = False) -> list[Measured]:
        order = Measure(now=now, facts=facts)
        there = dict.fromkeys(self._network.hosts(), order)
        return list((await self._orders.give_each(there, Measured, but_lost=True)).values())

    def _work(self, what: Spawn) -> tuple[Work, Package | None]:
        package = None if what.app is None else self._apps.get(what.app)
        work = _checked(
            Work,
            service=what.service,
            app=None if package is None else App(name=package.name, digest=package.digest),
            parameters=dict(what.parameters),
            exp_id=what.exp_id,
            seed=what.seed,
            arrival=what.arrival,
        )
        return work, package

    def _matching(self, pattern: str) -> list[str]:
        return matching(pattern, self._network.hosts())

    def _meant(self, pattern: str) -> list[str]:
        """Return also the hosts that a pattern would mean if they were there."""
        return matching(pattern, self._network.hosts().keys() | self._held.lost)


def by_host(clients: Iterable[str]) -> dict[str, list[str]]:
    """Return ids of clients by the host that is the first part of each.

    Raises:
        BadInput: one is no such id.
    """
    found: dict[str, list[str]] = {}
    for client in clients:
        host, colon, rest = client.partition(":")
        if not colon or ":" not in rest:
            raise BadInput(f"{client!r} is no client's id, such as h1:squeezenet:0")
        found.setdefault(host, []).append(client)
    return found


def _checked(kind: type[M], **fields: Any) -> M:
    """Return a message.

    Raises:
        BadInput: a value cannot be sent.
    """
    try:
        return kind(**fields)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in error["loc"])
        raise BadInput(f"{where}: {error['msg']}" if where else str(error["msg"])) from exc


def _as_sent(inter_arrival: InterArrival | None) -> Any:
    if isinstance(inter_arrival, tuple):
        name, *parameters = inter_arrival
        return name, tuple(parameters)
    return inter_arrival
