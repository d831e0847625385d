"""What other peers ask of an allocator: a ready instance, or what a start would meet here."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from allocator.errors import AllocatorError
from allocator.instances.instances import Instances
from allocator.rules.admission import Refusal, check_constraints
from allocator.serving.offers import Held
from overlay.allocation import (
    AllocateReply,
    AllocateRequest,
    AllocationRefusal,
    Offer,
    OfferRequest,
)
from overlay.calls import CallRefused
from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.deputy import spoken_for
from overlay.errors import MalformedMessage, SignatureInvalid
from overlay.names import PeerId
from overlay.node import Node
from overlay.revision import Revision, SignedRevision
from overlay.signed import Signed

RESOLVE_TIMEOUT_S = 1.0
"""How long a registry is asked about a name that is new here; a start does not depend on it."""

log = structlog.get_logger()


@dataclass(slots=True)
class Requests:
    """Answers allocate and offer calls.

    Attributes:
        node: of this allocator.
        instances: what runs here.
        definitions: what services there are.
        trusted: returns the owner keys that may read every log here, the machine's user's among
            them.
    """

    node: Node
    instances: Instances
    definitions: Definitions
    trusted: Callable[[], frozenset[PeerId]]
    _held: Held = field(default_factory=Held)

    async def allocate(self, peer: PeerId, request: AllocateRequest) -> AllocateReply:
        """Answer an allocate call.

        Raises:
            CallRefused: with a code of `AllocationRefusal`, and the end of the instance's log for
                whoever may read that.
        """
        try:
            given = SignedRevision.verified(request.revision)
        except (MalformedMessage, SignatureInvalid) as exc:
            raise CallRefused(AllocationRefusal.BAD_REVISION, str(exc)) from exc
        log.debug("allocate", peer=peer, service=given.revision.name, id=request.request_id)
        self._held.taken(peer, given.revision.name, given.revision.generation)
        await self._learn(given.revision, peer)
        unmet = check_constraints(given.revision.spec, self.node.record.called)
        if isinstance(unmet, Refusal):
            raise CallRefused(unmet.code, unmet.text)
        try:
            allocated = await self.instances.allocate(
                given, request.exclude, request.request_id, caller=peer
            )
        except AllocatorError as exc:
            if not exc.log or self._may_read(given.owner, peer, request.deputy):
                raise CallRefused(exc.code, str(exc), {"log": exc.log}) from exc
            where = f"its owner sees its log, and `myxo status` on {self.node.record.host}"
            raise CallRefused(exc.code, f"{exc} ({where})") from exc
        return AllocateReply(instance=allocated.record, phases=dict(allocated.phases))

    def _may_read(self, owner: PeerId, peer: PeerId, deputy: Signed | None) -> bool:
        """Return whether what a service of `owner` printed may be told to `peer`.

        Any member may have a service started; what it prints may be secret.
        """
        spoken = spoken_for(deputy, peer)
        return spoken is not None and (spoken == owner or spoken in self.trusted())

    async def offer(self, peer: PeerId, request: OfferRequest) -> Offer:
        """Say what a start would meet here."""
        instances = self.instances
        outlook = instances.outlook(request.service, request.revision)
        before, room = 0, instances.room()
        if not (outlook.ready or outlook.starting or outlook.resume_s is not None):
            room, before = self._held.offer(peer, request, room, trio.current_time())
        images = self.node.record.images
        return Offer(
            room=room,
            ahead=outlook.ahead + before,
            ready=outlook.ready,
            starting=outlook.starting,
            resume_s=outlook.resume_s,
            image=request.image is None or request.image in images,
        )

    async def _learn(self, given: Revision, peer: PeerId) -> None:
        """Ask a registry about a name that is new here, so that nobody can take another's.

        Raises:
            CallRefused: there is no such service, and whoever kept a deleted one's revision shows
                it; or this peer shows too many that nobody knows.
        """
        if self.definitions.get(given.name) is not None:
            return
        with trio.move_on_after(RESOLVE_TIMEOUT_S):
            try:
                await self.definitions.resolve(given.name, peer, ask_again=True)
            except UnknownService as exc:
                raise CallRefused(AllocationRefusal.BAD_REVISION, str(exc)) from exc
            except LookupsBusy as exc:
                raise CallRefused(AllocationRefusal.BUSY, str(exc)) from exc
            except RegistryUnreachable as exc:
                log.info("definition.unknown", service=given.name, error=str(exc))
