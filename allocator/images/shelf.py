"""The images that Myxo fetched: noted on disk, removed when they are too many.

What the file does not name was there before, or is somebody's own, and is never removed. An image
that got a name since is its user's too.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog
import trio
from pydantic import BaseModel, ValidationError

from allocator.errors import AllocatorError
from allocator.images.disk import Fetched, to_evict
from overlay.names import Digest

SWEEP_S = 60.0
"""Between notes of what is in use; the order of eviction needs no more."""

log = structlog.get_logger()


class Removes(Protocol):
    """What is needed of the engine."""

    async def size_bytes(self, image: Digest) -> int | None:
        """Return how large an image is; None if it is not there."""
        ...

    async def remove(self, image: Digest) -> bool:
        """Remove an image that nothing uses; return whether it is of no more concern."""
        ...


class _Noted(BaseModel):
    digest: Digest
    size_bytes: int
    used_at: float


class _File(BaseModel):
    format: int = 1
    fetched: list[_Noted] = []


class Shelf:
    """What was fetched.

    Args:
        engine: has the images.
        path: of the file.
        bound_bytes: for all of them; 0 is no bound.
        in_use: returns what instances run from, or are about to.
        registered: returns the images of services' newest revisions.
        clock: the wall's, in seconds.
    """

    def __init__(
        self,
        engine: Removes,
        path: Path,
        bound_bytes: int,
        *,
        in_use: Callable[[], Collection[Digest]],
        registered: Callable[[], Collection[Digest]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._path = path
        self._bound_bytes = bound_bytes
        self._in_use = in_use
        self._registered = registered
        self._clock = clock
        self._fetched = _load(path)

    @property
    def held_bytes(self) -> int:
        """What was fetched and is still there."""
        return sum(each.size_bytes for each in self._fetched.values())

    @property
    def images(self) -> Collection[Digest]:
        """What was fetched."""
        return self._fetched.keys()

    async def run(self) -> None:
        """Note what is in use, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            await self.make_room(0)

    async def took(self, image: Digest) -> None:
        """Note an image that was fetched just now."""
        size = await self._engine.size_bytes(image) or 0
        self._fetched[image] = Fetched(image, size, self._clock())
        await self.make_room(0, image)

    async def make_room(self, coming_bytes: int, *kept: Digest) -> None:
        """Remove what has to go so that `coming_bytes` more are within the bound."""
        in_use = {*self._in_use(), *kept}
        for image in in_use & self._fetched.keys():
            size = self._fetched[image].size_bytes
            self._fetched[image] = Fetched(image, size, self._clock())
        gone = to_evict(
            self._fetched.values(),
            bound_bytes=self._bound_bytes,
            coming_bytes=coming_bytes,
            in_use=in_use,
            registered=self._registered(),
        )
        for image in gone:
            try:
                removed = await self._engine.remove(image)
            except AllocatorError as exc:
                log.info("image.not_removed", image=image, error=str(exc))
                continue
            if removed and self._fetched.pop(image, None) is not None:
                log.info("image.removed", image=image)
        await trio.to_thread.run_sync(_save, self._path, list(self._fetched.values()))


def _save(path: Path, fetched: list[Fetched]) -> None:
    noted = [_Noted(digest=f.digest, size_bytes=f.size_bytes, used_at=f.used_at) for f in fetched]
    written = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written.write_text(_File(fetched=noted).model_dump_json())
        written.replace(path)
    except OSError as exc:
        log.warning("images.not_noted", path=str(path), error=str(exc))


def _load(path: Path) -> dict[Digest, Fetched]:
    try:
        noted = _File.model_validate_json(path.read_bytes()).fetched
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as exc:
        log.warning("images.not_known", path=str(path), error=str(exc))
        return {}
    return {n.digest: Fetched(n.digest, n.size_bytes, n.used_at) for n in noted}
