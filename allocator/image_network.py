"""Images and the overlay: who is near, what is asked of whom, and who may have which image."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from allocator.admission import Refusal, check_revision
from allocator.image_fetch import Near
from allocator.image_messages import IMAGE_PROTOCOL, ImageRefusal, ImageReply, ImageRequest
from allocator.image_peers import Read
from allocator.image_road import ImageRoad
from overlay.calls import CallRefused
from overlay.definitions import Definitions, LookupsBusy, RegistryUnreachable, UnknownService
from overlay.errors import MalformedMessage, PeerUnreachable, SignatureInvalid
from overlay.http.carried import open_carried
from overlay.names import Digest, PeerId
from overlay.node import Node
from overlay.records import Role
from overlay.revision import SignedRevision

MAX_HEARD = 64
"""Revisions that were asked for lately; a replica has them a moment later."""

FAR_S = 10.0
"""The RTT of a peer that nobody knows the distance of."""


class ImageNetwork:
    """What fetching and handing on images need of the node.

    Args:
        node: of this allocator.
        definitions: say which image belongs to which service.
    """

    def __init__(self, node: Node, definitions: Definitions) -> None:
        self._node = node
        self._definitions = definitions
        self._heard: OrderedDict[Digest, SignedRevision] = OrderedDict()
        carry = partial(open_carried, node.host, node.reach.connect)
        self._road = ImageRoad(node.view.peer, node.tls, carry)

    @property
    def read(self) -> Read:
        """Reads a layer from a peer."""
        return self._road.read

    def heard(self, given: SignedRevision) -> None:
        """Take note of a revision that somebody wants started; it may be in no replica yet."""
        spec = given.revision.spec
        if spec is not None and spec.image is not None:
            self._heard[spec.image.config_digest] = given
            self._heard.move_to_end(spec.image.config_digest)
            while len(self._heard) > MAX_HEARD:
                self._heard.popitem(last=False)

    def near(self, image: Digest) -> Sequence[Near]:
        """Return the other allocators, the nearest first."""
        return [
            Near(
                peer.peer_id,
                FAR_S if peer.rtt_s is None else peer.rtt_s,
                image in peer.record.images,
            )
            for peer in self._node.view.peers(Role.ALLOCATOR)
            if "docker" in peer.record.runtimes
        ]

    async def ask(
        self, peer: PeerId, image: Digest, *, prepare: bool, timeout_s: float
    ) -> ImageReply:
        """Make an image call.

        Raises:
            MyxoError: it has no such image, or does not answer.
        """
        revision = self._revision_of(image)
        if revision is None:
            raise PeerUnreachable(f"no service is known here that has the image {image}")
        request = ImageRequest(revision=revision.signed, prepare=prepare)
        return await self._node.calls.call(
            peer, IMAGE_PROTOCOL, request, ImageReply, timeout_s=timeout_s
        )

    async def named(self, peer: PeerId, request: ImageRequest) -> Digest:
        """Return the image that a request may have.

        Raises:
            CallRefused: its revision is not that of a registered service.
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
        return spec.image.config_digest

    def registered(self) -> set[Digest]:
        """Return the images of all services' newest revisions."""
        return set(self._by_image())

    def _revision_of(self, image: Digest) -> SignedRevision | None:
        return self._heard.get(image) or self._by_image().get(image)

    def _by_image(self) -> dict[Digest, SignedRevision]:
        found = {}
        for name in self._definitions.names():
            known = self._definitions.get(name)
            spec = None if known is None else known.revision.spec
            if known is not None and spec is not None and spec.image is not None:
                found[spec.image.config_digest] = known
        return found
