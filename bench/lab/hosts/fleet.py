"""All load hosts of a network, commanded together.

Which hosts are there is what the overlay's membership says, which finds a dead one in three
seconds. What they were told is kept here: where a host is lost, the hosts that were told a rate
together with it send its part too (`rates.py`), and give it back when it returns. Requests by
number are another matter, because how many of them a lost host has sent can never be known: whoever
waits for those is told that it is lost.

This holds for as long as the fleet is open; hosts go on with what they were told after that.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
import trio
from pydantic import BaseModel, ValidationError

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.hosts.apps import Deployed, Package
from bench.lab.hosts.choosing import matching, pack
from bench.lab.hosts.collecting import Collector
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
from bench.lab.hosts.rates import Rates, Target
from bench.lab.load_hosts import ClientStatus, InterArrival, Spawn
from myxo.rtable import Answer

M = TypeVar("M", bound=BaseModel)

Tell = Callable[[str, str], None]
"""Takes an event: its name, and what happened, in words."""

log = structlog.get_logger()


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
        self._tell = tell
        self._collector = collector
        self._rates = Rates()
        self._setting = trio.Lock()
        self._lost: dict[str, tuple[Run, list[Target]]] = {}

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
        async with self._setting:
            self._rates.forget(self._meant(pattern), service, exp_id)
            self._rates.tell(chosen, service, exp_id, rate)
            try:
                await self._orders.give_each(dict.fromkeys(chosen, order), Done, but_lost=True)
            except OrdersFailed as exc:
                self._rates.forget(exc.hosts, service, exp_id)  # they refuse, and send nothing
                raise

    async def rps_of(self, clients: Sequence[str], rate: float) -> None:
        """Have each of these clients send `rate` requests a second; lost ones are not replaced."""
        orders = {
            host: _checked(SetRate, clients=tuple(ids), rate=rate * len(ids))
            for host, ids in by_host(clients).items()
        }
        await self._orders.give_each(orders, Done)

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
        async with self._setting:
            self._rates.forget(self._meant(pattern), service, exp_id)
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
        there = dict(self._network.hosts())
        task_status.started()
        while True:
            now = dict(self._network.hosts())
            if now == there:
                await self._network.changed()
                continue
            async with self._setting:
                await self._adjust(there, now)
            there = now

    async def _adjust(self, before: Mapping[str, Run], now: Mapping[str, Run]) -> None:
        """Bring the hosts that are there in step with what is due from them now."""
        was_due = self._rates.due(before)
        changed: dict[Target, float] = {}
        for host, run in before.items():
            if host not in now:
                self._lost[host] = run, [target for target in was_due if target[0] == host]
        for host, run in now.items():
            lost_run, targets = self._lost.pop(host, (run, []))
            if before.get(host, lost_run) != run:
                self._rates.restarted(host)
                self._say("load_host.restarted", f"{host} has started anew and has no clients")
            elif host not in before and targets:
                changed |= dict.fromkeys(targets, 0.0)
                self._say("load_host.back", f"{host} is back")
        due = self._rates.due(now)
        changed = {t: 0.0 for t in changed if t not in due} | {
            t: rate for t, rate in due.items() if t in changed or was_due.get(t) != rate
        }
        for host in before.keys() - now.keys():
            self._say("load_host.lost", _lost(host, self._lost[host][1], was_due, changed))
        await self._set(changed)

    async def _set(self, rates: Mapping[Target, float]) -> None:
        for (host, service, exp_id), rate in rates.items():
            order = SetRate(service=service, exp_id=exp_id, rate=rate)
            try:
                await self._orders.give(host, order, Done)
            except LoadFailed as exc:  # if it is lost too, there is another change to see to
                self._say("load_host.failed", f"{host} does not send {rate:g}/s: {exc}")

    async def _spawn(self, numbers: Mapping[str, int], what: Spawn) -> list[str]:
        work, package = self._work(what)
        orders = {
            host: _checked(SpawnClients, num=num, work=work, traced=self._collector is not None)
            for host, num in numbers.items()
        }
        spawned = await self._orders.give_each(orders, Spawned, package)
        return [client for answer in spawned.values() for client in answer.clients]

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
        return matching(pattern, self._network.hosts().keys() | self._lost.keys())

    def _say(self, event: str, text: str) -> None:
        log.warning(event, what=text)
        self._tell(event, text)


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


def _lost(
    host: str,
    targets: Sequence[Target],
    was_due: Mapping[Target, float],
    changed: Mapping[Target, float],
) -> str:
    """Return in words what is lost with a host, and who does it now."""
    parts = [f"{host} is lost"]
    for target in targets:
        _, service, exp_id = target
        others = [h for h, s, e in changed if (s, e) == (service, exp_id) and h != host]
        heirs = f"now sent by {', '.join(others)}" if others else "sent by nobody"
        parts.append(f"its {was_due[target]:g} requests/s to {service} are {heirs}")
    return "; ".join(parts)


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
