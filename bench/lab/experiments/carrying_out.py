"""Does an experiment's steps with the load hosts."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

import structlog
import trio

from bench.lab.errors import BadInput
from bench.lab.experiments.steps import (
    CloseClients,
    Say,
    SendRequests,
    SetRate,
    Sleep,
    SpawnClients,
    Step,
    WaitUntil,
)
from bench.lab.load_hosts import LoadHosts, Spawn
from overlay.errors import MyxoError

CLOSE_TIMEOUT_S = 10.0
"""For clients that an experiment leaves behind, also when it was cancelled."""

log = structlog.get_logger()

Note = Callable[[str, str], Awaitable[None]]
"""Keeps that something happened: an event's name, and its value."""


async def carry_out(steps: Sequence[Step], hosts: LoadHosts, exp_id: str, note: Note) -> None:
    """Do all steps, and end the clients that they leave, also if a step fails.

    Raises:
        MyxoError: a step could not be done.
    """
    work = _Work(hosts, exp_id, note)
    try:
        for step in steps:
            await work.do(step)
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await work.close_all()


class _Work:
    """One experiment's clients, and when its load began."""

    def __init__(self, hosts: LoadHosts, exp_id: str, note: Note) -> None:
        self._hosts = hosts
        self._exp_id = exp_id
        self._note = note
        self._open: dict[tuple[str, str], list[str]] = {}
        self._began: float | None = None

    async def do(self, step: Step) -> None:
        match step:
            case SpawnClients():
                await self._spawn(step)
            case SetRate():
                await self._set_rate(step)
            case SendRequests():
                await self._request(step)
            case CloseClients():
                await self._close(step.pattern, step.service)
            case Sleep():
                await trio.sleep(step.seconds)
            case WaitUntil():
                await trio.sleep_until(self._start() + step.offset_s)
            case Say():
                await self._note("echo", step.text)
            case _:
                assert_never(step)

    async def _spawn(self, step: SpawnClients) -> None:
        what = Spawn(
            step.service,
            step.num,
            step.app,
            step.parameters,
            exp_id=self._exp_id,
            seed=step.seed,
            arrival=step.arrival,
        )
        mine = self._open.setdefault((step.pattern, step.service), [])
        clients = await self._hosts.spawn(step.pattern, what)  # some hosts may do it and one not
        mine += clients
        await self._note("spawn", " ".join(clients))

    async def _set_rate(self, step: SetRate) -> None:
        rate = step.rate
        if step.shared:
            rate /= len(await self._hosts.hosts(step.pattern))
        self._start()
        await self._hosts.rps(step.pattern, step.service, rate, self._exp_id)
        await self._note("rps", f"{step.pattern} {step.service} {step.rate:g}")

    async def _request(self, step: SendRequests) -> None:
        clients = [c for ids in self._mine(step.service) for c in ids if _is_on(step.pattern, c)]
        if not clients:
            raise BadInput(f"this experiment has no clients of {step.service} on {step.pattern}")
        self._start()
        await self._note("request", f"{step.pattern} {step.service} {step.count}")
        await self._hosts.request(clients, step.count, step.inter_arrival)

    async def _close(self, pattern: str, service: str) -> None:
        await self._hosts.close(pattern, service, self._exp_id)
        await self._note("close", f"{pattern} {service}")
        self._open.pop((pattern, service), None)
        for ids in self._mine(service):
            ids[:] = [client for client in ids if not _is_on(pattern, client)]

    def _mine(self, service: str) -> list[list[str]]:
        return [ids for (_, asked), ids in self._open.items() if asked == service]

    def _start(self) -> float:
        if self._began is None:
            self._began = trio.current_time()
        return self._began

    async def close_all(self) -> None:
        """End the clients that were not closed, as far as their hosts are there."""
        for pattern, service in list(self._open):
            try:
                await self._hosts.close(pattern, service, self._exp_id)
            except MyxoError as exc:
                log.info("experiment.clients_left", exp_id=self._exp_id, error=str(exc))


def _is_on(pattern: str, client: str) -> bool:
    return re.fullmatch(pattern, client.partition(":")[0]) is not None
