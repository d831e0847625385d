"""Which services name which image, as the replica of the definitions has them."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from overlay.names import Digest, PeerId, ServiceName
from overlay.revision import SignedRevision

MAX_HEARD = 64
"""Revisions that were asked for lately; a replica has them a moment later."""


class Replica(Protocol):
    """What is needed of the definitions."""

    def names(self) -> Sequence[ServiceName]:
        """Return every service's name."""
        ...

    def get(self, name: ServiceName) -> SignedRevision | None:
        """Return a service's newest revision."""
        ...

    async def changed(self) -> None:
        """Return when they are others."""
        ...


class ImageServices:
    """The services by their images.

    Args:
        definitions: of all services.
    """

    def __init__(self, definitions: Replica) -> None:
        self._definitions = definitions
        self._heard: OrderedDict[Digest, SignedRevision] = OrderedDict()
        self._index: dict[Digest, list[SignedRevision]] | None = None

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow the definitions until cancelled; `changed` is called after each change."""
        while True:
            self._index = None
            changed()
            await self._definitions.changed()

    def heard(self, given: SignedRevision) -> None:
        """Take note of a revision that somebody wants started; it may be in no replica yet."""
        spec = given.revision.spec
        if spec is not None and spec.image is not None:
            self._heard[spec.image.config_digest] = given
            self._heard.move_to_end(spec.image.config_digest)
            while len(self._heard) > MAX_HEARD:
                self._heard.popitem(last=False)

    def registered(self) -> Collection[Digest]:
        """Return the images of all services' newest revisions."""
        return self._by_image().keys()

    def owners(self, image: Digest) -> set[PeerId]:
        """Return whose services' newest revisions name an image."""
        return {known.owner for known in self._by_image().get(image, ())}

    def revision_of(self, image: Digest) -> SignedRevision | None:
        """Return a revision that names an image; one that was just asked for before others."""
        return self._heard.get(image) or next(iter(self._by_image().get(image, ())), None)

    def _by_image(self) -> dict[Digest, list[SignedRevision]]:
        if self._index is None:
            index: defaultdict[Digest, list[SignedRevision]] = defaultdict(list)
            for name in self._definitions.names():
                known = self._definitions.get(name)
                spec = None if known is None else known.revision.spec
                if known is not None and spec is not None and spec.image is not None:
                    index[spec.image.config_digest].append(known)
            self._index = dict(index)
        return self._index
