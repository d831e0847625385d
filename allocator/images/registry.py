"""An image from the registry that it was pushed to, by the digest that it has there."""

from collections.abc import Callable
from typing import Protocol

import structlog

from allocator.errors import ImageMissing
from overlay.names import Digest
from overlay.spec import Image

log = structlog.get_logger()


class Pulls(Protocol):
    """What a pull needs of the engine."""

    async def has(self, reference: str) -> bool:
        """Return whether an image is there under a name."""
        ...

    async def pull(self, reference: str, told: Callable[[int, int], None]) -> Digest:
        """Pull an image from its registry; return its config's digest."""
        ...

    async def remove(self, image: Digest) -> bool:
        """Remove an image that nothing uses and nobody gave a name."""
        ...


async def pull_pushed(engine: Pulls, image: Image, told: Callable[[int, int], None]) -> None:
    """Pull an image by the digest that it was pushed under; another one does not stay.

    Args:
        engine: pulls it.
        image: what a revision names.
        told: called with the bytes that came, and of how many.

    Raises:
        ImageMissing: it was pushed nowhere, cannot be pulled, or is another image.
    """
    named = f"{image.reference} ({image.config_digest[:19]}…)"
    if image.repo_digest is None:
        raise ImageMissing(f"{named} is not on this machine and was pushed to no registry")
    log.info("image.pull", image=image.reference, digest=image.repo_digest)
    was_here = await engine.has(image.repo_digest)
    try:
        found = await engine.pull(image.repo_digest, told)
    except ImageMissing as exc:
        raise ImageMissing(f"{named} is not here and cannot be pulled: {exc}") from exc
    if found != image.config_digest:
        if not was_here:
            await engine.remove(found)
        raise ImageMissing(
            f"{image.repo_digest} is {found}, not {image.config_digest}, which the service names"
        )
