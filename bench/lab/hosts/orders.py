"""Giving orders to load hosts, also while connections break and hosts go."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import TypeVar

import trio
from pydantic import BaseModel

from bench.lab.errors import LoadFailed
from bench.lab.hosts.apps import Package
from bench.lab.hosts.messages import Done, Order, TakeApp
from bench.lab.hosts.network import HostNetwork, Run
from bench.lab.hosts.station import APP_UNKNOWN
from overlay.calls import CallRefused
from overlay.errors import MyxoError, PeerUnreachable

ANSWER_TIMEOUT_S = 90.0
"""Starting or closing many clients on a small machine takes tens of seconds."""

AWAY_S = 10.0
"""How long a host may not be reached while the overlay still holds it to be there."""

RETRY_S = 0.5

M = TypeVar("M", bound=BaseModel)


class OrdersFailed(LoadFailed):
    """Some hosts did not do what they were told.

    Attributes:
        hosts: those.
    """

    def __init__(self, troubles: Mapping[str, str]) -> None:
        self.hosts: Sequence[str] = tuple(troubles)
        said = (t if host in t else f"{host}: {t}" for host, t in troubles.items())
        super().__init__("; ".join(said))


class Orders:
    """Gives orders, each with one effect however often it must be sent.

    Args:
        network: the way to the hosts.
    """

    def __init__(self, network: HostNetwork) -> None:
        self._network = network

    async def give(self, host: str, order: Order, reply: type[M], run: Run | None = None) -> M:
        """Return a host's answer.

        Args:
            host: its name.
            order: what it is to do.
            reply: what it answers.
            run: the one that is meant, if it is not just the one that is there now.

        Raises:
            LoadFailed: it does not do it, or is gone.
        """
        meant = run or self._network.hosts().get(host)
        key = token_hex(8)
        since = trio.current_time()
        while meant is not None and self._network.hosts().get(host) == meant:
            try:
                return await self._while_there(
                    meant,
                    host,
                    partial(
                        self._network.order, host, key, order, reply, timeout_s=ANSWER_TIMEOUT_S
                    ),
                )
            except PeerUnreachable as exc:
                if trio.current_time() - since > AWAY_S:
                    raise LoadFailed(f"the host cannot be reached ({exc})") from exc
            except LoadFailed:
                raise
            except CallRefused as exc:
                if exc.code == APP_UNKNOWN:
                    raise
                raise LoadFailed(exc.text) from exc
            except MyxoError as exc:
                raise LoadFailed(str(exc)) from exc
            with trio.move_on_after(RETRY_S):
                await self._network.changed()
        raise LoadFailed("the host is gone, or has started anew")

    async def give_with_app(
        self, host: str, order: Order, reply: type[M], package: Package | None
    ) -> M:
        """Return a host's answer to what needs a custom client, which it is sent if it lacks it.

        Raises:
            LoadFailed: as `give`.
        """
        try:
            return await self.give(host, order, reply)
        except CallRefused as exc:
            if package is None:
                raise LoadFailed(exc.text) from exc
        await self.give(host, TakeApp(name=package.name, package=package.data), Done)
        return await self.give(host, order, reply)

    async def give_each(
        self,
        orders: Mapping[str, Order],
        reply: type[M],
        package: Package | None = None,
        *,
        but_lost: bool = False,
    ) -> dict[str, M]:
        """Return the answers of several hosts, which are told at once.

        Args:
            orders: what each host is to do.
            reply: what it answers.
            package: the custom client that this needs.
            but_lost: leave out hosts that are gone by now, unless all of them are.

        Raises:
            OrdersFailed: some do not do it; the others did.
        """
        answers: dict[str, M] = {}
        troubles: dict[str, str] = {}

        async def give(host: str, order: Order) -> None:
            try:
                answers[host] = await self.give_with_app(host, order, reply, package)
            except LoadFailed as exc:
                troubles[host] = str(exc)

        async with trio.open_nursery() as nursery:
            for host, order in orders.items():
                nursery.start_soon(give, host, order)
        there = self._network.hosts()
        if but_lost and answers:
            troubles = {host: text for host, text in troubles.items() if host in there}
        if troubles:
            raise OrdersFailed({host: troubles[host] for host in orders if host in troubles})
        return {host: answers[host] for host in orders if host in answers}

    async def _while_there(self, run: Run, host: str, ask: Callable[[], Awaitable[M]]) -> M:
        """Return what `ask` returns, which need not be waited for once the host is gone.

        Raises:
            PeerUnreachable: it is, or `ask` says so.
        """
        outcome: list[M | MyxoError] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while self._network.hosts().get(host) == run:
                    await self._network.changed()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                outcome.append(await ask())
            except MyxoError as exc:  # raised outside, where nothing wraps it
                outcome.append(exc)
            nursery.cancel_scope.cancel()
        if not outcome:
            raise PeerUnreachable(f"{host} is gone")
        if isinstance(outcome[0], MyxoError):
            raise outcome[0]
        return outcome[0]
