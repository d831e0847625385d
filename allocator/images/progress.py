"""How far the fetches of images are: for people, and for whoever asks whether there is room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from allocator.errors import AllocatorError
from overlay.names import Digest
from overlay.spec import Image

TELL_S = 2.0

log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """How far a fetch is.

    Attributes:
        total_bytes: 0 until it is known.
        sources: who gives, or the registry.
    """

    reference: str
    begun: float
    done_bytes: int = 0
    total_bytes: int = 0
    sources: list[str] = field(default_factory=list)


class Transfers:
    """The fetches that are under way."""

    def __init__(self) -> None:
        self._under_way: dict[Digest, Progress] = {}

    def status(self) -> list[dict[str, Any]]:
        """Return how far each is."""
        now = trio.current_time()
        return [
            {
                "image": p.reference,
                "digest": digest,
                "bytes": p.done_bytes,
                "total_bytes": p.total_bytes,
                "bytes_per_s": round(p.done_bytes / max(now - p.begun, 1e-3)),
                "from": list(p.sources),
            }
            for digest, p in self._under_way.items()
        ]

    def outstanding_bytes(self, image: Digest) -> int:
        """Return how much is still to come of others than `image`."""
        others = (p for digest, p in self._under_way.items() if digest != image)
        return sum(max(0, p.total_bytes - p.done_bytes) for p in others)

    @asynccontextmanager
    async def followed(self, image: Image, way: str) -> AsyncIterator[Progress]:
        """Show how far a fetch is while the block runs; its errors pass unwrapped."""
        progress = Progress(image.reference, trio.current_time())
        self._under_way[image.config_digest] = progress
        failure: AllocatorError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, progress, way)
                try:
                    yield progress
                except AllocatorError as exc:
                    failure = exc
                nursery.cancel_scope.cancel()
        finally:
            del self._under_way[image.config_digest]
        if failure is not None:
            raise failure


async def _tell(progress: Progress, way: str) -> None:
    before = 0
    while True:
        await trio.sleep(TELL_S)
        log.info(
            "image.fetching",
            image=progress.reference,
            way=way,
            bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            bytes_per_s=round((progress.done_bytes - before) / TELL_S),
        )
        before = progress.done_bytes
