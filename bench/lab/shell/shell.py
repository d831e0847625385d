"""The lab's shell on load hosts."""

import re
from collections.abc import Callable, Iterable, Sequence

import trio

from bench.lab.errors import LabError
from bench.lab.load_hosts import LoadHosts, Spawn
from bench.lab.shell.tables import client_rows, info_rows, table
from bench.lab.shell.words import LAB_WORDS
from myxo.line_shell import LineRefused, LineShell
from myxo.rtable import Ask
from myxo.rtable_shell import route

MAX_NUM = 256


def lab_shell(
    hosts: LoadHosts,
    ask: Ask,
    echo: Callable[[str], None] = print,
    *,
    exp_id: str = "",
) -> LineShell:
    """Return a shell.

    Args:
        hosts: does what is said of clients.
        ask: does what is said of the routing tables of the load hosts' proxies.
        echo: shows a line to the person.
        exp_id: the experiment whose clients are meant; empty means all there are, of none.
    """
    words = _Words(hosts, ask, echo, exp_id)
    return LineShell(LAB_WORDS, words.do, echo)


class _Words:
    """Does the shell's own commands."""

    def __init__(
        self, hosts: LoadHosts, ask: Ask, echo: Callable[[str], None], exp_id: str
    ) -> None:
        self._hosts = hosts
        self._ask = ask
        self._echo = echo
        self._exp_id = exp_id

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
            case "spawn":
                await self._spawn(*given)
            case "rps":
                pattern, service, rate = given
                await self._hosts.rps(pattern, service, _rate(rate), self._exp_id or None)
            case "close":
                pattern, service = given
                await self._hosts.close(pattern, service, self._exp_id or None)
            case _:
                await route(self._ask, name, given, self._echo)

    async def _spawn(self, pattern: str, service: str, num: str = "1", app: str = "") -> None:
        what = Spawn(service, _num(num), app or None, exp_id=self._exp_id)
        self._show(await self._hosts.spawn(pattern, what))

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


def _num(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_NUM:
        raise LineRefused(f"argument error: {text!r} is no number of clients from 1 to {MAX_NUM}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise LineRefused(f"argument error: {text!r} are no requests a second, such as 2.5")
    return rate
