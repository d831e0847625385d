"""Which images of this machine's engine other machines may have, and which they hear of. Pure.

An engine has images that are nobody else's business, and any member may sign a service that names
one of them. So what a service names is not reason enough to hand it on. It has to be an image that
Myxo itself fetched, which came from others, or one that a trusted owner's service names: this
machine's own user's, who adds services here, the network's admin's, those of `myxo allow`. These
may have any command run with the rights of the allocator's user, so no image that the allocator can
read is a secret from them. That an image ran for a service does not count: anybody may have one
started, and would so get its bytes as well. An operator can say that every image may be had.

Who hears of an image knows its name already: a record lists those only that a service names, or
that came from others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from overlay.names import Digest, PeerId
from overlay.records import MAX_IMAGES


@dataclass(frozen=True, slots=True)
class Sharing:
    """What decides.

    Attributes:
        fetched: the images that Myxo fetched.
        trusted: the owner keys that may have everything run here.
        everything: the operator lets every image be handed on.
    """

    fetched: Collection[Digest]
    trusted: Collection[PeerId]
    everything: bool = False

    def allows(self, image: Digest, owners: Iterable[PeerId]) -> bool:
        """Return whether an image may be handed on whose services have these owners."""
        return self.everything or image in self.fetched or not set(owners).isdisjoint(self.trusted)


def told(
    held: Iterable[Digest], registered: Collection[Digest], fetched: Collection[Digest]
) -> tuple[Digest, ...]:
    """Return which of the images that are here others hear of, in the order given."""
    known = [image for image in held if image in registered or image in fetched]
    return tuple(known[:MAX_IMAGES])
