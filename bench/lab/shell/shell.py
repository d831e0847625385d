"""The lab's shell on load hosts."""

import re
from collections.abc import Callable, Iterable, Sequence

import trio

from bench.lab.commands import step_of
from bench.lab.errors import LabError, LoadFailed
from bench.lab.experiments.steps import (
    CloseClients,
    SendRequests,
    SetRate,
    SpawnClients,
    Step,
)
from bench.lab.load_hosts import LoadHosts, Spawn
from bench.lab.shell.tables import client_rows, info_rows, table
from bench.lab.shell.words import LAB_WORDS
from myxo.line_shell import LineShell
from myxo.rtable import Ask
from myxo.rtable_shell import route


def lab_shell(
    hosts: LoadHosts,
    ask: Ask,
    echo: Callable[[str], None] = print,
) -> LineShell:
    """Return a shell.

    Args:
        hosts: does what is said of clients.
        ask: does what is said of the routing tables of the load hosts' proxies.
        echo: shows a line to the person.
    """
    words = _Words(hosts, ask, echo)
    return LineShell(LAB_WORDS, words.do, echo)


class _Words:
    """Does the shell's own commands."""

    def __init__(self, hosts: LoadHosts, ask: Ask, echo: Callable[[str], None]) -> None:
        self._hosts = hosts
        self._ask = ask
        self._echo = echo

    async def do(self, name: str, given: Sequence[str]) -> None:
        match name:
            case "hosts":
                self._show(await self._hosts.hosts(*given))
            case "clients":
                self._show(client_rows(await self._hosts.clients(*given)))
            case "info":
                self._show(info_rows(await self._hosts.clients()))
            case "ping":
                await self._ping()
            case _ if (step := step_of(name, given)) is not None:
                await self._do(step)
            case _:
                await route(self._ask, name, given, self._echo)

    async def _do(self, step: Step) -> None:
        match step:
            case SpawnClients():
                what = Spawn(step.service, step.num, step.app)
                self._show(await self._hosts.spawn(step.pattern, what))
            case SetRate():
                await self._hosts.rps(step.pattern, step.service, step.rate)
            case SendRequests():
                await self._request(step)
            case CloseClients():
                await self._hosts.close(step.pattern, step.service)

    async def _request(self, step: SendRequests) -> None:
        there = await self._hosts.clients(step.pattern)
        clients = [status.client for status in there if status.service == step.service]
        if not clients:
            raise LoadFailed(f"{step.pattern} has no clients of {step.service}: spawn some first")
        await self._hosts.request(clients, step.count, step.inter_arrival)

    async def _ping(self) -> None:
        rows: list[tuple[str, str, str]] = []

        async def ping(host: str) -> None:
            began = trio.current_time()
            try:
                clients = await self._hosts.clients(re.escape(host))
            except LabError:
                rows.append((host, "-", "lost"))
                return
            took_ms = (trio.current_time() - began) * 1000
            rows.append((host, str(len(clients)), f"{took_ms:.1f}"))

        async with trio.open_nursery() as nursery:
            for host in await self._hosts.hosts():
                nursery.start_soon(ping, host)
        self._show(table(("Host", "Clients", "Ms"), sorted(rows)))

    def _show(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._echo(line)
