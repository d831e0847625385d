"""A registry as its users' commands see it: found through the network, asked over the overlay."""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from pydantic import BaseModel

from overlay.calls import CallRefused
from overlay.definitions import UnknownService
from overlay.errors import MyxoError, PeerUnreachable, ProtocolRefused
from overlay.generation import taken_over
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.node import Node, open_node
from overlay.records import Role
from overlay.registry_messages import (
    REGISTRY_PROTOCOL,
    Add,
    Added,
    Found,
    Get,
    History,
    ListAll,
    Page,
    RegistryRefusal,
)
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from registry.errors import NoSuchService
from registry.settings import CliSettings

CALL_TIMEOUT_S = 30.0
"""Longer than an etcd of several endpoints takes to fail over."""

PATIENCE_S = 40.0
"""For all registry peers together, lost connections included."""

RETRY_S = 0.5

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class RegistryClient:
    """Calls to whichever registry peer answers, the nearest first.

    Every method raises `CallRefused` with the registry's reason, and `PeerUnreachable` if no
    registry peer answers.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest revision of a name, which may be its deletion; None: never heard."""
        try:
            found = await self._call(Get(name=name), Found)
        except CallRefused as exc:
            if exc.code == RegistryRefusal.UNKNOWN:
                return None
            raise
        return SignedRevision.verified(found.revision)

    async def current(self, name: ServiceName) -> SignedRevision:
        """Return the newest revision of a service that is not deleted.

        Raises:
            UnknownService: with the known names that it may be a slip of.
        """
        try:
            found = await self._call(Get(name=name), Found)
        except CallRefused as exc:
            if exc.code == RegistryRefusal.UNKNOWN:
                near = [ServiceName(str(n)) for n in exc.details.get("near", ())]
                raise UnknownService(name, near) from exc
            raise
        revision = SignedRevision.verified(found.revision)
        if revision.revision.spec is None:
            raise UnknownService(name, [])
        return revision

    async def services(self) -> list[SignedRevision]:
        """Return every service, by name."""
        return await self._collect(ListAll())

    async def history(self, name: ServiceName) -> list[SignedRevision]:
        """Return a name's kept revisions, the oldest first."""
        return await self._collect(History(name=name))

    async def add(self, revision: SignedRevision) -> None:
        """Add a revision."""
        await self._call(Add(revision=revision.signed), Added)

    async def _call(self, request: BaseModel, reply: type[M]) -> M:
        async def call(peer: PeerId) -> M:
            return await self._node.calls.call(
                peer, REGISTRY_PROTOCOL, request, reply, timeout_s=CALL_TIMEOUT_S
            )

        return await self._from_any(call)

    async def _collect(self, request: BaseModel) -> list[SignedRevision]:
        return await self._from_any(lambda peer: self._collect_from(peer, request))

    async def _from_any(self, ask: Callable[[PeerId], Awaitable[T]]) -> T:
        """Return the first answer of a registry peer.

        A connection that was lost meanwhile is waited for: the mesh makes it anew, and every call
        may be sent again, also an add, which changes nothing the second time.
        """
        trouble: MyxoError = PeerUnreachable("the network's registry-service is gone")
        with trio.move_on_after(PATIENCE_S):
            while True:
                for peer in self._peers():
                    try:
                        return await ask(peer)
                    except (PeerUnreachable, ProtocolRefused) as exc:
                        trouble = exc
                    except CallRefused as exc:
                        if exc.code != RegistryRefusal.UNAVAILABLE:
                            raise
                        trouble = exc
                if not isinstance(trouble, PeerUnreachable):
                    break
                with trio.move_on_after(RETRY_S):
                    await self._node.changed()
        raise trouble

    async def _collect_from(self, peer: PeerId, request: BaseModel) -> list[SignedRevision]:
        found: list[SignedRevision] = []
        with trio.move_on_after(CALL_TIMEOUT_S):
            async with self._node.calls.stream(peer, REGISTRY_PROTOCOL, request, Page) as pages:
                async for page in pages:
                    found += [SignedRevision.verified(signed) for signed in page.revisions]
            return found
        raise PeerUnreachable(f"the registry did not answer within {CALL_TIMEOUT_S:g} s")

    def _peers(self) -> list[PeerId]:
        return [peer.peer_id for peer in self._node.view.peers(Role.REGISTRY)]


@asynccontextmanager
async def open_client(settings: CliSettings) -> AsyncIterator[RegistryClient]:
    """Join the network for as long as the block runs, and yield its registry.

    Raises:
        PeerUnreachable: no bootstrap node answers, or the network has no registry-service.
        PassphraseRefused: the network has another passphrase.
    """
    joined = False
    with trio.move_on_after(settings.timeout_s) as finding:
        async with open_node(settings, Role.CLIENT) as node:
            joined = True
            while not node.view.peers(Role.REGISTRY):
                await node.changed()
            finding.deadline = math.inf
            yield RegistryClient(node)
    if finding.cancelled_caught and not joined:
        raise PeerUnreachable(
            f"no bootstrap node answered within {settings.timeout_s:g} s: "
            f"{', '.join(settings.bootstraps)}"
        )
    if finding.cancelled_caught:
        raise PeerUnreachable(
            "the network has no registry-service that can be reached; start one with "
            f"registry-service --bootstrap {settings.bootstraps[0]}"
        )


def next_revision(
    owner: Identity,
    name: ServiceName,
    newest: SignedRevision | None,
    spec: ServiceSpec | None,
    editors: tuple[PeerId, ...] | None = None,
    *,
    afresh: bool = False,
) -> SignedRevision:
    """Return the revision that follows `newest`, signed by `owner`.

    Args:
        owner: the key that signs.
        name: the service.
        newest: its newest revision; None if the name was never taken.
        spec: what the service is from now on; None deletes it.
        editors: further keys that may change it; None leaves them as they are.
        afresh: its instances are new ones, whatever is changed.

    Raises:
        NoSuchService: a deletion of what is not there.
        MalformedMessage: the definition is too large.
    """
    gone = newest is None or newest.revision.spec is None
    if spec is None and gone:
        raise NoSuchService(name)
    kept = () if newest is None or gone else newest.revision.editors
    revision = Revision(
        name=name,
        number=1 if newest is None else newest.revision.number + 1,
        spec=spec,
        editors=kept if editors is None else editors,
        created_at=time.time(),
        takes_over=0 if afresh else taken_over(newest, spec, owner.peer_id),
    )
    return SignedRevision.verified(SignedRevision.sign(owner, revision).signed)
