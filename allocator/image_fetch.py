"""An image that is not here: from the nearest peers or from its registry, whichever is sooner.

If one way fails the other is tried. However many instances need an image, it is fetched once. A
fetch ends with the engine saying that it has the very image that the revision names.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from allocator.errors import AllocatorError, ImageMissing, Refused
from allocator.image_disk import lack_of_room
from allocator.image_layers import LayerFiles, remove_old
from allocator.image_messages import ImageReply
from allocator.image_peers import PeerFetch, Progress, Read, holders
from allocator.image_plan import Rates
from allocator.image_shelf import Shelf
from overlay.allocation import AllocationRefusal
from overlay.names import Digest, PeerId
from overlay.spec import Image

FETCHES_AT_ONCE = 2
"""More share the same line and disk, and each then comes later."""

ASK_NAMED = 8
ASK_UNNAMED = 4
"""A record names the newest images only, and a fresh one may be in none yet."""

TELL_S = 2.0
GUESSED_BYTES = 100 * 1024 * 1024
"""Of an image whose revision does not say."""

log = structlog.get_logger()


class Pulls(Protocol):
    """What a pull needs of the engine."""

    async def pull(self, reference: str, told: Callable[[int], None]) -> Digest:
        """Pull an image from its registry; return its config's digest."""
        ...


class Images(Pulls, Protocol):
    """What is needed of the engine."""

    async def size_bytes(self, image: Digest) -> int | None:
        """Return how large an image is; None if it is not there."""
        ...

    async def held_layers(self) -> list[tuple[Digest, ...]]:
        """Return the layers of each image that is there."""
        ...

    async def free_bytes(self) -> int | None:
        """Return what is free on its disk, if it can be known."""
        ...

    async def load(self, pieces: Iterable[bytes]) -> None:
        """Take an archive in."""
        ...


async def pull_pushed(engine: Pulls, image: Image, told: Callable[[int], None]) -> None:
    """Pull an image by the digest that it was pushed under.

    Args:
        engine: pulls it.
        image: what a revision names.
        told: called with the bytes so far.

    Raises:
        ImageMissing: it was pushed nowhere, cannot be pulled, or is another image.
    """
    named = f"{image.reference} ({image.config_digest[:19]}…)"
    if image.repo_digest is None:
        raise ImageMissing(f"{named} is not on this machine and was pushed to no registry")
    log.info("image.pull", image=image.reference, digest=image.repo_digest)
    try:
        found = await engine.pull(image.repo_digest, told)
    except ImageMissing as exc:
        raise ImageMissing(f"{named} is not here and cannot be pulled: {exc}") from exc
    if found != image.config_digest:
        raise ImageMissing(
            f"{image.repo_digest} is {found}, not {image.config_digest}, which the service names"
        )


@dataclass(frozen=True, slots=True)
class Near:
    """An allocator that may have an image; they come the nearest first."""

    peer: PeerId
    rtt_s: float
    named: bool


class Peers(Protocol):
    """What is needed of the overlay."""

    def near(self, image: Digest) -> Sequence[Near]:
        """Return the allocators, the nearest first."""
        ...

    async def ask(
        self, peer: PeerId, image: Digest, *, prepare: bool, timeout_s: float
    ) -> ImageReply:
        """Make an image call."""
        ...

    @property
    def read(self) -> Read:
        """Reads a layer."""
        ...


class ImageFetcher:
    """Fetches images.

    Args:
        engine: takes them in.
        peers: have some.
        shelf: notes what was fetched.
        folder: where layers are put while they come.
        fetched: called with the way and the bytes of each fetch.
    """

    def __init__(
        self,
        engine: Images,
        peers: Peers,
        shelf: Shelf,
        folder: Path,
        fetched: Callable[[str, int], None] = lambda _way, _bytes: None,
    ) -> None:
        self._engine = engine
        self._peers = peers
        self._shelf = shelf
        self._folder = folder
        self._fetched = fetched
        self._rates = Rates()
        self._at_once = trio.Semaphore(FETCHES_AT_ONCE)
        self._under_way: dict[Digest, trio.Event] = {}
        self._progress: dict[Digest, Progress] = {}

    def status(self) -> list[dict[str, Any]]:
        """Return how far each fetch is."""
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
            for digest, p in self._progress.items()
        ]

    async def fetch(self, image: Image) -> None:
        """Return when the engine has an image.

        Raises:
            ImageMissing: it cannot be fetched; says what was tried.
            Refused: there is no room on the disk.
            RuntimeDown: the engine does not answer.
        """
        digest = image.config_digest
        while (ended := self._under_way.get(digest)) is not None:
            await ended.wait()
            if await self._engine.size_bytes(digest) is not None:
                return
        ended = self._under_way[digest] = trio.Event()
        try:
            async with self._at_once:
                await self._fetch(image)
        finally:
            del self._under_way[digest]
            ended.set()

    async def _fetch(self, image: Image) -> None:
        await self._shelf.make_room(image.size_bytes or 0, image.config_digest)
        await self._check_room(image.size_bytes or 0)
        near = await self._have_it(image)
        size = image.size_bytes or GUESSED_BYTES
        ways: list[tuple[str, Callable[[Progress], Awaitable[None]]]] = []
        if near:
            peers = [each.peer for each in near]
            ways.append(("peers", lambda told: self._from_peers(image, peers, told)))
        if image.repo_digest is not None:
            ways.append(("registry", lambda told: self._from_registry(image, told)))
        if near and not self._rates.peers_first(size, near[0].rtt_s):
            ways.reverse()
        failures = [] if near else ["no machine near has it"]
        if image.repo_digest is None:
            failures.append("it was pushed to no registry")
        for way, fetch in ways:
            try:
                await self._by(way, fetch, image)
            except ImageMissing as exc:
                failures.append(str(exc))
                log.warning("image.way_failed", image=image.reference, way=way, error=str(exc))
            else:
                await self._shelf.took(image.config_digest)
                return
        raise ImageMissing(
            f"{image.reference} ({image.config_digest[:19]}…) is not on this machine and could "
            f"not be fetched: {'; '.join(failures)}"
        )

    async def _by(
        self, way: str, fetch: Callable[[Progress], Awaitable[None]], image: Image
    ) -> None:
        async with self._followed(image, way) as progress:
            await fetch(progress)
        if await self._engine.size_bytes(image.config_digest) is None:
            raise ImageMissing(f"the engine took in another image than {image.config_digest}")
        seconds = trio.current_time() - progress.begun
        by_peers = way == "peers"
        if progress.done_bytes:
            self._rates.measured(peers=by_peers, size_bytes=progress.done_bytes, seconds=seconds)
        self._fetched(way, progress.done_bytes)
        log.info(
            "image.fetched",
            image=image.reference,
            way=way,
            sources=progress.sources,
            bytes=progress.done_bytes,
            seconds=round(seconds, 3),
        )

    async def _from_peers(self, image: Image, peers: Sequence[PeerId], progress: Progress) -> None:
        digest = image.config_digest
        await trio.to_thread.run_sync(remove_old, self._folder)
        files = LayerFiles(self._folder / digest.removeprefix("sha256:"))

        fetch = PeerFetch(
            digest,
            image.size_bytes,
            await self._engine.held_layers(),
            files,
            partial(self._peers.ask, image=digest),
            self._peers.read,
            self._check_room,
            progress,
        )
        await fetch.run(peers)
        await self._engine.load(fetch.archive())
        await files.remove()

    async def _from_registry(self, image: Image, progress: Progress) -> None:
        progress.sources.append((image.repo_digest or "").partition("/")[0])

        def told(count: int) -> None:
            progress.done_bytes = count

        await pull_pushed(self._engine, image, told)

    async def _have_it(self, image: Image) -> list[Near]:
        digest = image.config_digest
        near = self._peers.near(digest)
        named = [n.peer for n in near if n.named][:ASK_NAMED]
        unnamed = [n.peer for n in near if not n.named][:ASK_UNNAMED]

        found = await holders(partial(self._peers.ask, image=digest), named, unnamed)
        return [n for n in near if n.peer in found]

    async def _check_room(self, size_bytes: int) -> None:
        """Raise if layers of so many bytes do not fit, once here and once in the engine."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = shutil.disk_usage(self._folder).free
        there = await self._engine.free_bytes()
        same = there is not None and abs(there - here) < size_bytes + 2**20
        reason = lack_of_room(here, size_bytes * (2 if same else 1))
        if not reason and there is not None:
            reason = lack_of_room(there, size_bytes)
        if reason:
            raise Refused(AllocationRefusal.NO_ROOM, reason)

    @asynccontextmanager
    async def _followed(self, image: Image, way: str) -> AsyncIterator[Progress]:
        """Show how far a fetch is while the block runs; its errors pass unwrapped."""
        progress = Progress(image.reference, trio.current_time())
        self._progress[image.config_digest] = progress
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
            del self._progress[image.config_digest]
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
