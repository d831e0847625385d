"""The network under test, as its member: definitions are changed in it, and instances watched.

Whoever runs a report must own the services: a changed definition is a revision, signed by the key
of this machine's user. A run begins with one that has instances of its own, and so with none of the
last run's; what changes within a run is how many there are.
"""

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from bench.lab.errors import LoadFailed
from bench.lab.reporting.lives import GONE, Change, Lives
from myxo.mapping.owner import owner
from overlay.definitions import UnknownService
from overlay.errors import MyxoError, PeerUnreachable
from overlay.identity import Identity
from overlay.names import ServiceName, service_name
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role
from overlay.spec import ServiceSpec
from overlay.watching import changes_of
from registry.client import RegistryClient, next_revision
from registry.settings import CliSettings

SETTLE_TIMEOUT_S = 120.0
"""For the instances of an old definition to be gone, and those that are kept to be ready."""

RESTORE_TIMEOUT_S = 30.0


class NetworkUnderTest:
    """A network whose services are tried out; made by `open_tested`.

    Attributes:
        lives: what its instances did since this process joined.
    """

    def __init__(self, node: Node, owner: Identity) -> None:
        self.lives = Lives()
        self._node = node
        self._owner = owner
        self._registry = RegistryClient(node)
        self._generations: dict[ServiceName, int] = {}

    async def define(self, name: str, spec: ServiceSpec, *, afresh: bool = False) -> None:
        """Make a service what a definition says, if it is not.

        Args:
            name: the service.
            spec: its definition.
            afresh: none of the instances that are there serve it, even if it is what it was.

        Raises:
            LoadFailed: the registry does not take it; mostly because another key owns the name.
        """
        service = service_name(name)
        try:
            newest = await self._registry.current(service)
            if afresh or newest.revision.spec != spec:
                newest = next_revision(self._owner, service, newest, spec, afresh=afresh)
                await self._registry.add(newest)
        except MyxoError as exc:
            raise LoadFailed(f"the definition of {name} cannot be changed: {exc}") from exc
        self._generations[service] = newest.revision.generation

    @asynccontextmanager
    async def borrowed(self, names: Iterable[str]) -> AsyncIterator[Mapping[str, ServiceSpec]]:
        """Yield the definitions of services, and make them so again at the end of the block.

        Raises:
            LoadFailed: there is no such service, or its definition cannot be changed back.
        """
        originals = {name: await self._defined(name) for name in names}
        try:
            yield originals
        finally:
            with trio.move_on_after(RESTORE_TIMEOUT_S, shield=True):
                for name, spec in originals.items():
                    await self.define(name, spec)

    async def settle(self, name: str, least: int) -> None:
        """Return when a service has instances of its definition alone, `least` of them ready.

        Raises:
            LoadFailed: that does not come about.
        """
        with trio.move_on_after(SETTLE_TIMEOUT_S):
            while not self._is_settled(service_name(name), least):
                await self._node.changed()
            return
        raise LoadFailed(
            f"{name} did not come to have {least} instances of its new definition within "
            f"{SETTLE_TIMEOUT_S:g} s; `myxo status` shows what it has"
        )

    def ready(self, name: str) -> int:
        """Return how many instances of a service are ready."""
        found = self._node.view.instances(service_name(name))
        return sum(i.record.state is InstanceState.READY for i in found)

    async def watch(self) -> None:
        """Note what becomes of instances, until cancelled."""
        services: dict[tuple[str, str], str] = {}
        async for changes in changes_of(self._node.view, self._node.changed):
            for seen in changes:
                if "instance" in seen:
                    self.lives.take(_change(seen, services))

    def _is_settled(self, service: ServiceName, least: int) -> bool:
        generation = self._generations.get(service, 0)
        found = [i for i in self._node.view.all_instances() if i.record.service == service]
        if any(i.record.revision < generation for i in found):
            return False
        return self.ready(service) >= least

    async def _defined(self, name: str) -> ServiceSpec:
        try:
            spec = (await self._registry.current(service_name(name))).revision.spec
        except (UnknownService, ValueError) as exc:
            raise LoadFailed(f"{exc}; `registry-cli list` shows what there is") from exc
        assert spec is not None  # noqa: S101  (for the type checker: a current revision has one)
        return spec


def _change(seen: Mapping[str, Any], services: dict[tuple[str, str], str]) -> Change:
    """Return a watcher's change as one of a life; `services` keeps what only its first ones say."""
    key = (seen["peer"], seen["instance"])
    service = services.setdefault(key, seen.get("service", ""))
    if seen["state"] == GONE:
        del services[key]
    return Change(seen["at"], service, ":".join(key), seen["state"])


@asynccontextmanager
async def open_tested(settings: CliSettings) -> AsyncIterator[NetworkUnderTest]:
    """Join the network and watch it for the length of a block.

    Raises:
        PeerUnreachable: it has no registry that can be reached.
        PassphraseRefused: it has another passphrase.
    """
    joined = False
    with trio.move_on_after(settings.timeout_s) as finding:
        async with open_node(settings, Role.CLIENT) as node, trio.open_nursery() as nursery:
            while not node.view.peers(Role.REGISTRY):
                await node.changed()
            joined, finding.deadline = True, math.inf
            network = NetworkUnderTest(node, owner())
            nursery.start_soon(network.watch)
            yield network
            nursery.cancel_scope.cancel()
    if not joined:
        raise PeerUnreachable(
            f"no registry of the network at {', '.join(settings.bootstraps)} was found within "
            f"{settings.timeout_s:g} s"
        )
