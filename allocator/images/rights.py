"""Who may have which image of this machine: the decision of `sharing.py` on an image call."""

from collections.abc import Callable
from typing import Protocol

from allocator.images.messages import ImageRefusal, ImageRequest
from allocator.images.services import ImageServices
from allocator.images.sharing import Sharing
from allocator.rules.admission import Refusal, check_revision
from overlay.calls import CallRefused
from overlay.definitions import LookupsBusy, RegistryUnreachable, UnknownService
from overlay.errors import MalformedMessage, SignatureInvalid
from overlay.names import Digest, PeerId, ServiceName
from overlay.revision import SignedRevision

_NOT_SHARED = (
    "this machine hands on what it fetched itself and what services of its trusted owners name; "
    "its operator can: myxo allow the service's owner, or share_any_image"
)


class Resolves(Protocol):
    """What is needed of the definitions."""

    async def resolve(self, name: ServiceName, asker: PeerId) -> SignedRevision:
        """Return what a name means now, or raise."""
        ...


class ImageRights:
    """Decides which image a request may have.

    Args:
        definitions: say what a name means.
        services: says which services name an image.
        sharing: returns what may be handed on now.
    """

    def __init__(
        self,
        definitions: Resolves,
        services: ImageServices,
        sharing: Callable[[], Sharing],
    ) -> None:
        self._definitions = definitions
        self._services = services
        self._sharing = sharing

    async def named(self, peer: PeerId, request: ImageRequest) -> Digest:
        """Return the image that a request may have; the engine is not asked whether it is here.

        Raises:
            CallRefused: its revision is not that of a registered service, or the image is not for
                others.
        """
        try:
            given = SignedRevision.verified(request.revision)
            known = await self._definitions.resolve(given.revision.name, peer)
        except (MalformedMessage, SignatureInvalid, UnknownService, RegistryUnreachable) as exc:
            raise CallRefused(ImageRefusal.UNKNOWN_SERVICE, str(exc)) from exc
        except LookupsBusy as exc:
            raise CallRefused(ImageRefusal.BUSY, str(exc)) from exc
        decision = check_revision(given, known)
        spec = given.revision.spec
        if isinstance(decision, Refusal):
            raise CallRefused(ImageRefusal.UNKNOWN_SERVICE, decision.text)
        if spec is None or spec.image is None:
            raise CallRefused(ImageRefusal.ABSENT, f"{given.revision.name} has no image")
        image = spec.image.config_digest
        if not self._sharing().allows(image, {given.owner, *self._services.owners(image)}):
            raise CallRefused(ImageRefusal.NOT_SHARED, _NOT_SHARED)
        return image
