"""The API's place in the overlay: a member that listens nowhere, in a thread of its own.

The overlay needs trio, and the API is served by whatever its user likes. So trio runs beside the
server, and calls go over to it. A network that does not answer yet is joined when it does.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import structlog
import trio
from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from bench.lab.api.network import LabNetwork, NoNetwork, NotJoined
from bench.lab.api.settings import ApiSettings
from bench.lab.hosts.apps import Deployed
from bench.lab.hosts.fleet import Fleet
from bench.lab.hosts.network import OverlayNetwork
from myxo.mapping.owner import owner
from myxo.rtable import Answer
from overlay.errors import MyxoError
from overlay.node import Node, open_node
from overlay.records import Role
from registry.client import RegistryClient

RETRY_S = 2.0
"""Until a network that refused is asked again."""

CALLS = 16
"""That wait for the overlay at once; each holds a thread."""

T = TypeVar("T")

log = structlog.get_logger()


class Member:
    """Knows the network while `run` is in it; all in trio's thread.

    Args:
        settings: which network, and how long it has to answer.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._node: Node | None = None
        self._why_not = f"no bootstrap node has answered yet: {', '.join(settings.bootstraps)}"

    async def run(self) -> None:
        """Be in the network until cancelled, however often it takes to join."""
        while True:
            try:
                async with open_node(self._settings, Role.CLIENT) as node:
                    self._node = node
                    await trio.sleep_forever()
            except* MyxoError as group:
                self._note(_first(group))
            finally:
                self._node = None
            await trio.sleep(RETRY_S)

    def _note(self, why_not: str) -> None:
        """Say why it could not join: once, and not each time it tries again."""
        if why_not != self._why_not:
            log.warning("api.not_joined", error=why_not, retry_s=RETRY_S)
        self._why_not = why_not

    async def hosts(self) -> Sequence[str]:
        """Return the names of the load hosts."""
        return sorted(self._network().hosts())

    async def services(self) -> Sequence[str]:
        """Return the names of the services that are not deleted.

        Raises:
            PeerUnreachable: no registry answers.
        """
        found = await RegistryClient(self._joined()).services()
        return [one.revision.name for one in found if one.revision.spec is not None]

    async def route(self, command: Mapping[str, Any]) -> Sequence[Answer]:
        """Do a command on the routing tables of the load hosts' proxies.

        Raises:
            NoSuchHost: there are none.
            LoadFailed: one does not do it.
        """
        apps = Deployed.below(self._settings.state_dir)
        fleet = Fleet(self._network(), apps, lambda _, __: None, None)
        return await fleet.route(command)

    async def in_time(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call does, which may take the time of the settings.

        Raises:
            NotJoined: it took longer.
        """
        with trio.move_on_after(self._settings.timeout_s):
            return await call()
        raise NotJoined(f"the network did not answer within {self._settings.timeout_s:g} s")

    def _network(self) -> OverlayNetwork:
        return OverlayNetwork(self._joined(), owner())

    def _joined(self) -> Node:
        if self._node is None:
            raise NotJoined(f"the network cannot be asked: {self._why_not}")
        return self._node


class JoinedNetwork:
    """A `LabNetwork` whose member is in another thread."""

    named = True

    def __init__(self, portal: BlockingPortal, member: Member) -> None:
        self._portal = portal
        self._member = member
        self._limiter = CapacityLimiter(CALLS)

    async def hosts(self) -> Sequence[str]:
        """See `LabNetwork`."""
        return await self._ask(self._member.hosts)

    async def services(self) -> Sequence[str]:
        """See `LabNetwork`."""
        return await self._ask(self._member.services)

    async def route(self, command: Mapping[str, Any]) -> Sequence[Answer]:
        """See `LabNetwork`."""
        return await self._ask(partial(self._member.route, command))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        asked = partial(self._portal.call, self._member.in_time, call)
        return await to_thread.run_sync(asked, limiter=self._limiter, abandon_on_cancel=True)


@asynccontextmanager
async def open_network(settings: ApiSettings) -> AsyncIterator[LabNetwork]:
    """Be in the network that the settings name; joined or not yet."""
    if not settings.bootstraps:
        yield NoNetwork()
        return
    trio_thread = start_blocking_portal("trio")
    portal = await to_thread.run_sync(trio_thread.__enter__)
    try:
        member = Member(settings)
        # From a thread, as all else that goes over: this one may run trio itself.
        running = await to_thread.run_sync(portal.start_task_soon, member.run)
        try:
            yield JoinedNetwork(portal, member)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(running.cancel)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(trio_thread.__exit__, None, None, None)


def _first(group: BaseExceptionGroup[MyxoError]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
