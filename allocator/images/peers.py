"""One image from several peers: who is asked, who gives which layer, and who is left.

The nearest peers whose records name the image are asked first, and a few near ones that do not name
it. Each that has it becomes a source, one a second, so that a small image comes from the nearest
alone. What a source may cost is bounded in time: so long to prepare, so long without a byte, so
slow; then it is left, and what came of its layer is another's to go on with.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from allocator.errors import ImageMissing, Refused
from allocator.images.archive import written_archive
from allocator.images.feed import Feed
from allocator.images.layers import LayerFiles
from allocator.images.messages import ImageReply, layer_target
from allocator.images.plan import ImageWrong, Plan, check_sizes, diff_ids, lacking
from allocator.images.progress import Progress
from overlay.calls import CallRefused
from overlay.errors import MyxoError, PeerUnreachable
from overlay.names import Digest, PeerId

MAX_SOURCES = 3
"""Each saves the whole image; more of them seldom make it come sooner."""

STAGGER_S = 1.0
ASK_TIMEOUT_S = 3.0

PREPARE_S = 60.0
PREPARE_RATE = 10e6
"""A disk that saves fewer bytes a second is not worth waiting for."""

PATIENCE_S = 30.0
"""How long a source that was cut is tried again; a cable is plugged in again within that."""

RETRY_FIRST_S = 0.25
RETRY_MOST_S = 4.0

SLOW_WINDOW_S = 10.0
LEAST_RATE = 32 * 1024
LEAST_RATE_AMONG_OTHERS = 512 * 1024
"""Bytes a second over `SLOW_WINDOW_S`: less is given up, sooner where another source is at hand."""

log = structlog.get_logger()


class Ask(Protocol):
    """Asks a peer whether it has the image, or to prepare it, within so many seconds."""

    async def __call__(self, peer: PeerId, *, prepare: bool, timeout_s: float) -> ImageReply:
        """Return its answer."""
        ...


Read = Callable[[PeerId, bytes, int, int], AsyncGenerator[bytes, None]]
"""Reads a layer from a peer's gateway; see `ImageRoad.read`."""


class _TooSlow(PeerUnreachable):
    """A source gives less than is worth waiting for."""


@dataclass(slots=True)
class PeerFetch:
    """The fetch of one image from peers.

    Args:
        image: what is fetched.
        size_bytes: what its owner says that it has.
        held: the layers of each image that the engine has.
        files: where its layers are put.
        ask, read: how peers are asked and read from.
        check_room: raises if so many bytes do not fit.
    """

    image: Digest
    size_bytes: int | None
    held: Sequence[Sequence[Digest]]
    files: LayerFiles
    ask: Ask
    read: Read
    check_room: Callable[[int], Awaitable[None]]
    progress: Progress
    config: bytes = b""
    layers: tuple[Digest, ...] = ()
    plan: Plan | None = None
    _faults: list[str] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)
    _refused: Refused | None = None
    _giving: int = 0
    _room_for: int = -1
    _sizes: dict[Digest, int] = field(default_factory=dict)
    _planned: trio.Event = field(default_factory=trio.Event)

    async def run(self, peers: Sequence[PeerId]) -> None:
        """Return when every layer is here.

        Raises:
            ImageMissing: no peer, or none that keeps its word; says what each did.
            Refused: there is no room for it here.
        """
        async with trio.open_nursery() as nursery:
            for number, peer in enumerate(peers[:MAX_SOURCES]):
                nursery.start_soon(self._source, peer, number * STAGGER_S, nursery.cancel_scope)
        if self.plan is None or not self.plan.finished:
            if self._refused is not None:
                raise self._refused
            reasons = "; ".join(self._faults) or "no peer that was asked has it"
            raise ImageMissing(f"no peer handed it on: {reasons}")

    async def feed(self) -> Feed:
        """Return the archive for the engine when it is known what it will have."""
        await self._planned.wait()
        return Feed(self.image, self.config, self.layers, self._sizes, self.files)

    def archive(self) -> Iterator[bytes]:
        """Return the pieces of what the engine takes in; reading them blocks."""
        files = {layer: path for layer in self._sizes if (path := self.files.whole(layer))}
        return written_archive(self.image, self.config, self.layers, files)

    async def _source(self, peer: PeerId, after_s: float, fetch: trio.CancelScope) -> None:
        """Have a source give what it can; its failure is its own."""
        with trio.move_on_after(after_s):
            while not self._faults:
                await self._news.wait()
        try:
            sizes = await self._prepared(peer)
            self.progress.sources.append(peer)
            self._giving += 1
            try:
                await self._give(peer, sizes)
            finally:
                self._giving -= 1
        except (MyxoError, ImageWrong, OSError) as exc:
            log.warning("image.source_left", image=self.image, peer=peer, error=str(exc))
            self._faults.append(f"{peer}: {exc}")
            if isinstance(exc, Refused):
                self._refused = exc
        self._tell()
        if self.plan is not None and self.plan.finished:
            fetch.cancel()

    async def _prepared(self, peer: PeerId) -> dict[Digest, int]:
        """Have a source prepare the image; return the sizes of the layers that are wanted."""
        timeout_s = PREPARE_S + (self.size_bytes or 0) / PREPARE_RATE
        reply = await self.ask(peer, prepare=True, timeout_s=timeout_s)
        layers = diff_ids(reply.config, self.image)
        wanted = lacking(layers, self.held)
        stated = {layer.diff_id: layer.size_bytes for layer in reply.layers}
        sizes = check_sizes(wanted, stated, self.size_bytes)
        await self._insist_on_room(sum(sizes.values()))
        if self.plan is None:
            self.config, self.layers = reply.config, layers
            largest_first = sorted(wanted, key=lambda layer: -sizes[layer])
            self.plan = Plan(tuple(largest_first))
            self._sizes = {layer: sizes[layer] for layer in largest_first}
            self._planned.set()
            self.progress.total_bytes = sum(sizes.values())
            for layer in wanted:
                if self.files.whole(layer):
                    self.plan.finish(layer)
                    self.progress.done_bytes += sizes[layer]
        return sizes

    async def _insist_on_room(self, size_bytes: int) -> None:
        """See that there is room for what a source states, if none stated as much before."""
        if size_bytes > self._room_for:
            await self.check_room(size_bytes)
            self._room_for = max(self._room_for, size_bytes)

    async def _give(self, peer: PeerId, sizes: dict[Digest, int]) -> None:
        """Take one layer after the other from a source until all are here."""
        plan = self.plan
        if plan is None:
            return
        silent_since = trio.current_time()
        delay_s = RETRY_FIRST_S
        while not plan.finished:
            layer = plan.take(peer)
            if layer is None:
                await self._news.wait()
                continue
            before = self.progress.done_bytes
            try:
                await self._layer(plan, layer, peer, sizes[layer])
            except _TooSlow:
                raise
            except PeerUnreachable as exc:
                if self.progress.done_bytes > before:
                    silent_since, delay_s = trio.current_time(), RETRY_FIRST_S
                if trio.current_time() - silent_since > PATIENCE_S:
                    raise
                log.warning("image.cut", image=self.image, peer=peer, error=str(exc))
                self._tell()
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MOST_S)
            else:
                silent_since, delay_s = trio.current_time(), RETRY_FIRST_S

    async def _layer(self, plan: Plan, layer: Digest, peer: PeerId, size: int) -> None:
        """Take the rest of a layer from a source.

        Raises:
            PeerUnreachable: it was cut; what came is kept.
            ImageWrong: it gave something else.
        """
        try:
            if not plan.keeps_part(layer, peer):
                self._restart(plan, layer)
            part = await self.files.open(layer)
            if part.size_bytes > size:
                self._restart(plan, layer)
                part = await self.files.open(layer)
            if part.size_bytes:
                plan.resumed(layer)
            if part.size_bytes < size:
                plan.gave(layer, peer)
                target = layer_target(self.image, layer)
                pieces = self.read(peer, target, part.size_bytes, size)
                async with aclosing(self._counted(pieces)) as counted:
                    await part.extend(counted)
            if await part.complete():
                plan.finish(layer)
            else:
                self.progress.done_bytes = max(0, self.progress.done_bytes - part.size_bytes)
                self.files.discard(layer)
                if plan.spoiled(layer):
                    raise ImageWrong(f"it gave wrong bytes for the layer {layer}")
        finally:
            if layer not in plan.done:
                plan.put_back(layer)
            self._tell()

    def _restart(self, plan: Plan, layer: Digest) -> None:
        self.files.discard(layer)
        plan.restarted(layer)

    async def _counted(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Count what passes, and end it when it is too slow."""
        begun, came = trio.current_time(), 0
        try:
            async for piece in pieces:
                came += len(piece)
                self.progress.done_bytes += len(piece)
                yield piece
                took = trio.current_time() - begun
                if took >= SLOW_WINDOW_S:
                    least = LEAST_RATE_AMONG_OTHERS if self._giving > 1 else LEAST_RATE
                    if came < least * took:
                        raise _TooSlow(f"it gave {came / took:.0f} bytes a second")
                    begun, came = trio.current_time(), 0
        finally:
            await pieces.aclose()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def holders(ask: Ask, named: Sequence[PeerId], unnamed: Sequence[PeerId]) -> list[PeerId]:
    """Return who says to have the image, those that name it first, each in the order given.

    Args:
        ask: asks one.
        named: the nearest peers whose records name it.
        unnamed: some near ones whose records do not: a record names only so many.
    """
    asked = [*named, *unnamed]
    have: set[PeerId] = set()

    async def one(peer: PeerId) -> None:
        try:
            await ask(peer, prepare=False, timeout_s=ASK_TIMEOUT_S)
        except CallRefused as exc:
            log.debug("image.not_there", peer=peer, code=exc.code, error=exc.text)
        except MyxoError as exc:
            log.info("image.not_answered", peer=peer, error=str(exc))
        else:
            have.add(peer)

    async with trio.open_nursery() as nursery:
        for peer in asked:
            nursery.start_soon(one, peer)
    return [peer for peer in asked if peer in have]
