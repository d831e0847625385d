"""Images and the overlay: who is near, and what is asked of whom."""

from collections.abc import Sequence
from functools import partial

from allocator.images.fetch import Near
from allocator.images.messages import IMAGE_PROTOCOL, ImageReply, ImageRequest
from allocator.images.peers import Read
from allocator.images.road import ImageRoad
from allocator.images.services import ImageServices
from overlay.errors import PeerUnreachable
from overlay.http.carried import open_carried
from overlay.names import Digest, PeerId
from overlay.node import Node
from overlay.records import Role

FAR_S = 10.0
"""The RTT of a peer that nobody knows the distance of."""


class ImageNetwork:
    """What fetching images needs of the node.

    Args:
        node: of this allocator.
        services: says which services name an image.
    """

    def __init__(self, node: Node, services: ImageServices) -> None:
        self._node = node
        self._services = services
        carry = partial(open_carried, node.host, node.reach.connect)
        self._road = ImageRoad(node.view.peer, node.tls, carry)

    @property
    def read(self) -> Read:
        """Reads a layer from a peer."""
        return self._road.read

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
        revision = self._services.revision_of(image)
        if revision is None:
            raise PeerUnreachable(f"no service is known here that has the image {image}")
        request = ImageRequest(revision=revision.signed, prepare=prepare)
        return await self._node.calls.call(
            peer, IMAGE_PROTOCOL, request, ImageReply, timeout_s=timeout_s
        )

    def who(self, caller: str) -> str:
        """Return the peer that a gateway's caller is, whichever way it came."""
        return self._node.view.by_certificate(caller) or caller
