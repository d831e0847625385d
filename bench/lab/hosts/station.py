"""A load host as whoever commands it sees it: orders in, answers out."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import trio
from pydantic import BaseModel

from bench.lab.hosts.apps import Package, Unpacked
from bench.lab.hosts.crew import Crew, Take
from bench.lab.hosts.machine import Machine
from bench.lab.hosts.mailbox import Mailbox
from bench.lab.hosts.messages import (
    MAX_WAIT_S,
    Act,
    AskOnce,
    AwaitTask,
    Begun,
    CloseClients,
    Done,
    Flushed,
    FlushTraces,
    Look,
    Looked,
    Measure,
    Order,
    Route,
    Routed,
    SendRequests,
    SetRate,
    SpawnClients,
    Spawned,
    TakeApp,
    TakeTraces,
    Traces,
    Work,
)
from bench.lab.hosts.once import Once
from bench.lab.request_trace import RequestTrace
from myxo.rtable import Ask
from overlay.calls import CallRefused
from overlay.names import PeerId

MAX_MAILBOXES = 64
"""Of those who command; whoever has asked for nothing for longest gives way."""

APP_UNKNOWN = "app_unknown"
"""The code of a refusal: send the custom client first, and then the order again."""


class Station:
    """Does orders.

    Args:
        once: does what has an effect.
        crew: this host's clients.
        machine: this one.
        apps: the custom clients that it was given.
        route: has the proxy that the clients ask do a command on its routing table.
        local: takes all traces instead of those who command; None if nobody does.
        streams: whether traces go to who commands.
    """

    def __init__(
        self,
        once: Once,
        crew: Crew,
        machine: Machine,
        apps: Unpacked,
        route: Ask,
        local: Take | None,
        *,
        streams: bool,
    ) -> None:
        self._once = once
        self._crew = crew
        self._machine = machine
        self._apps = apps
        self._route = route
        self._local = local
        self._streams = streams
        self._mailboxes: OrderedDict[PeerId, Mailbox] = OrderedDict()
        self._news = trio.Event()

    async def do(self, commander: PeerId, key: str, order: Order) -> BaseModel:
        """Do what an order says, once for each key of a commander's; return the answer.

        Raises:
            LabError: it cannot be done.
            CallRefused: with code `APP_UNKNOWN`.
        """
        match order:
            case Look():
                return Looked(clients=tuple(self._crew.rows()), broken=tuple(self._crew.broken))
            case AwaitTask(task=task):
                assignment = self._crew.assignment(task)
                with trio.move_on_after(MAX_WAIT_S):
                    await assignment.ended.wait()
                return assignment.progress()
            case TakeTraces(after=after):
                return await self._traces(commander, after)
            case FlushTraces():
                await self._crew.flush()
                return Flushed(end=self._mailbox(commander).end)
            case Measure(now=now, facts=facts):
                return await self._machine.measure(now, facts=facts)
            case _:
                return await self._once.do((commander, key), partial(self._act, commander, order))

    async def _act(self, commander: PeerId, order: Act) -> BaseModel:  # noqa: PLR0911  (a case each)
        match order:
            case SpawnClients(num=num, work=work):
                take = self._taker(commander, traced=order.traced)
                started = await self._crew.spawn(num, work, self._app(work), take)
                return Spawned(clients=tuple(started))
            case SetRate():
                return Done(clients=await self._crew.set_rate(order, order.rate))
            case SendRequests():
                return Begun(task=await self._crew.send(order))
            case CloseClients():
                return Done(clients=await self._crew.close(order))
            case AskOnce(work=work):
                return await self._crew.ask_once(work, self._app(work))
            case TakeApp(name=name, package=package):
                self._apps.put(Package(name, package))
                return Done()
            case Route(command=command):
                return Routed(answers=tuple(dict(a) for a in await self._route(command)))
            case _:
                assert_never(order)

    def _app(self, work: Work) -> Path | None:
        if work.app is None:
            return None
        found = self._apps.find(work.app.digest)
        if found is None:
            raise CallRefused(APP_UNKNOWN, f"{self._crew.host} does not have {work.app.name} yet")
        return found

    def _taker(self, commander: PeerId, *, traced: bool) -> Take | None:
        if self._local is not None:
            return self._local
        return partial(self._post, commander) if traced and self._streams else None

    def _post(self, commander: PeerId, traces: Sequence[RequestTrace]) -> None:
        self._mailbox(commander).put(traces)
        self._news.set()
        self._news = trio.Event()

    async def _traces(self, commander: PeerId, after: int) -> Traces:
        """Return traces that wait, those that come within `MAX_WAIT_S` if none do."""
        mailbox = self._mailbox(commander)
        self._mailboxes.move_to_end(commander)
        following, batch = mailbox.take(after)
        with trio.move_on_after(MAX_WAIT_S):
            while not batch:
                await self._news.wait()
                following, batch = mailbox.take(after)
        return Traces(after=following, traces=tuple(batch), dropped=mailbox.dropped)

    def _mailbox(self, commander: PeerId) -> Mailbox:
        if commander not in self._mailboxes:
            if len(self._mailboxes) >= MAX_MAILBOXES:
                self._mailboxes.popitem(last=False)
            self._mailboxes[commander] = Mailbox()
        return self._mailboxes[commander]

    def status(self) -> Mapping[str, Any]:
        """Return what `myxo status --json` shows of this host."""
        rows = self._crew.rows()
        return {"clients": len(rows), "requests": sum(row.sent for row in rows)}
