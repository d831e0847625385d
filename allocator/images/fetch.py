"""An image that is not here: from the nearest peers or from its registry, whichever is sooner.

If one way fails the other is tried. Of those who want an image at the same time one fetches it; the
others have what it gets, or, if their services say of the image what its service says, its failure.
A fetch ends with the engine saying that it has the very image that the revision names.
"""

import shutil
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from allocator.errors import AllocatorError, ImageMissing, Refused
from allocator.images.disk import lack_of_room
from allocator.images.layers import KEPT_S, LayerFiles, remove_old
from allocator.images.messages import ImageReply
from allocator.images.peers import PeerFetch, Read, holders
from allocator.images.plan import ImageWrong, Rates
from allocator.images.progress import Progress, Transfers
from allocator.images.registry import Pulls, pull_pushed
from allocator.images.shelf import Shelf
from allocator.images.turns import FetchTurns
from overlay.allocation import AllocationRefusal
from overlay.names import Digest, PeerId
from overlay.spec import Image

ASK_NAMED = 8
ASK_UNNAMED = 4
"""A record names the newest images only, and a fresh one may be in none yet."""

SWEEP_S = 600.0
"""Between looks for what fetches that failed left."""

GUESSED_BYTES = 100 * 1024 * 1024
"""Of an image whose revision does not say."""

_ONLY_BY_NAME = "this machine's policy lets it run for its name alone, so only its registry will do"

log = structlog.get_logger()


class Images(Pulls, Protocol):
    """What is needed of the engine."""

    async def size_bytes(self, image: Digest) -> int | None:
        """Return how large an image is; None if it is not there."""
        ...

    async def repo_digests(self, image: Digest) -> Collection[str]:
        """Return the `NAME@sha256:…`s that it pulled or pushed an image by."""
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

    Attributes:
        rates: how fast images came lately.
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
        self.rates = Rates()
        self._turns = FetchTurns()
        self._under_way: dict[Digest, _Fetch] = {}
        self._transfers = Transfers()

    def status(self) -> list[dict[str, Any]]:
        """Return how far each fetch is."""
        return self._transfers.status()

    async def run(self) -> None:
        """Remove what failed fetches left and nobody came for, until cancelled."""
        while True:
            await self._sweep(KEPT_S)
            await trio.sleep(SWEEP_S)

    async def fetch(self, image: Image, owner: PeerId, *, by_name: bool = False) -> None:
        """Return when the engine has an image.

        Args:
            image: what a service of `owner` names.
            owner: who takes turns with others.
            by_name: the engine has to pull it from its registry, whoever else has it.

        Raises:
            ImageMissing: it cannot be fetched; says what was tried.
            Refused: there is no room on the disk, or others have to go before it.
            RuntimeDown: the engine does not answer.
        """
        digest = image.config_digest
        while (other := self._under_way.get(digest)) is not None:
            await other.ended.wait()
            if await self._is_here(image, by_name=by_name):
                return
            if other.failure is not None and (other.image, other.by_name) == (image, by_name):
                raise Refused(other.failure.code, str(other.failure)) from other.failure
        mine = self._under_way[digest] = _Fetch(image, by_name)
        try:
            async with self._turns.turn(owner, image.size_bytes or GUESSED_BYTES):
                await self._fetch(image, by_name=by_name)
        except AllocatorError as exc:
            mine.failure = exc
            raise
        finally:
            del self._under_way[digest]
            mine.ended.set()

    async def _is_here(self, image: Image, *, by_name: bool) -> bool:
        if by_name:
            return image.repo_digest in await self._engine.repo_digests(image.config_digest)
        return await self._engine.size_bytes(image.config_digest) is not None

    async def _fetch(self, image: Image, *, by_name: bool) -> None:
        await self._shelf.make_room(image.size_bytes or 0, image.config_digest)
        await self._check_room(image.config_digest, image.size_bytes or 0)
        was_here = await self._engine.size_bytes(image.config_digest) is not None
        near = [] if by_name else await self._have_it(image)
        size = image.size_bytes or GUESSED_BYTES
        ways: list[tuple[str, Callable[[Progress], Awaitable[None]]]] = []
        if near:
            peers = [each.peer for each in near]
            ways.append(("peers", lambda told: self._from_peers(image, peers, told)))
        if image.repo_digest is not None:
            ways.append(("registry", lambda told: self._from_registry(image, told)))
        if near and not self.rates.peers_first(size, near[0].rtt_s):
            ways.reverse()
        failures = [] if near else [_ONLY_BY_NAME if by_name else "no machine near has it"]
        if image.repo_digest is None:
            failures.append("it was pushed to no registry")
        for way, fetch in ways:
            try:
                await self._by(way, fetch, image)
            except ImageMissing as exc:
                failures.append(str(exc))
                log.warning("image.way_failed", image=image.reference, way=way, error=str(exc))
            else:
                if not was_here:
                    await self._shelf.took(image.config_digest)
                return
        raise ImageMissing(
            f"{image.reference} ({image.config_digest[:19]}…) is not on this machine and could "
            f"not be fetched: {'; '.join(failures)}"
        )

    async def _by(
        self, way: str, fetch: Callable[[Progress], Awaitable[None]], image: Image
    ) -> None:
        async with self._transfers.followed(image, way) as progress:
            await fetch(progress)
        if await self._engine.size_bytes(image.config_digest) is None:
            raise ImageMissing(f"the engine took in another image than {image.config_digest}")
        seconds = trio.current_time() - progress.begun
        by_peers = way == "peers"
        if progress.done_bytes:
            self.rates.measured(peers=by_peers, size_bytes=progress.done_bytes, seconds=seconds)
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
        files = LayerFiles(self._folder / _named(digest))
        fetch = PeerFetch(
            digest,
            image.size_bytes,
            await self._engine.held_layers(),
            files,
            partial(self._peers.ask, image=digest),
            self._peers.read,
            partial(self._check_room, digest),
            progress,
        )
        if not await self._load_meanwhile(fetch, peers):
            await self._engine.load(fetch.archive())
        await files.remove()

    async def _load_meanwhile(self, fetch: PeerFetch, peers: Sequence[PeerId]) -> bool:
        """Fetch, and give the engine what comes; return whether it has taken it in by then."""
        loaded = False

        async def load() -> None:
            nonlocal loaded
            feed = await fetch.feed()
            try:
                await self._engine.load(feed.pieces())
                loaded = True
            except (AllocatorError, ImageWrong) as exc:
                log.info("image.loaded_later", image=fetch.image, error=str(exc))
            finally:
                feed.end()

        failure: AllocatorError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            try:
                await fetch.run(peers)
            except AllocatorError as exc:
                failure = exc
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return loaded

    async def _from_registry(self, image: Image, progress: Progress) -> None:
        progress.sources.append((image.repo_digest or "").partition("/")[0])

        def told(done_bytes: int, total_bytes: int) -> None:
            progress.done_bytes, progress.total_bytes = done_bytes, total_bytes

        await pull_pushed(self._engine, image, told)

    async def _have_it(self, image: Image) -> list[Near]:
        digest = image.config_digest
        near = self._peers.near(digest)
        named = [n.peer for n in near if n.named][:ASK_NAMED]
        unnamed = [n.peer for n in near if not n.named][:ASK_UNNAMED]

        found = await holders(partial(self._peers.ask, image=digest), named, unnamed)
        return [n for n in near if n.peer in found]

    async def _check_room(self, image: Digest, size_bytes: int) -> None:
        """Raise if layers of so many bytes do not fit beside what is coming of other images."""
        coming_bytes = size_bytes + self._transfers.outstanding_bytes(image)
        reason = await self._lack(coming_bytes)
        if reason:
            await self._sweep(0.0)
            reason = await self._lack(coming_bytes)
        if reason:
            raise Refused(AllocationRefusal.NO_ROOM, reason)

    async def _lack(self, size_bytes: int) -> str:
        """Return why so many bytes have no room, once here, and twice in the engine.

        It puts an archive aside before it unpacks it.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = shutil.disk_usage(self._folder).free
        there = await self._engine.free_bytes()
        same = there is not None and abs(there - here) < size_bytes + 2**20
        reason = lack_of_room(here, size_bytes * (3 if same else 1))
        return reason or ("" if there is None else lack_of_room(there, 2 * size_bytes))

    async def _sweep(self, kept_s: float) -> None:
        """Remove what fetches left that are over for so long."""
        busy = {_named(digest) for digest in self._under_way}
        await trio.to_thread.run_sync(remove_old, self._folder, kept_s, busy)


@dataclass(slots=True)
class _Fetch:
    image: Image
    by_name: bool
    ended: trio.Event = field(default_factory=trio.Event)
    failure: AllocatorError | None = None


def _named(image: Digest) -> str:
    """Return what the folder of an image is called."""
    return image.removeprefix("sha256:")
