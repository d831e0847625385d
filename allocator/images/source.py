"""Handing images on to other allocators: saved once, read in ranges, within bounds.

Only images of registered services are handed on: the asker shows the owner's signed revision, it
has to be what the name means here or newer, and the image one that others may have. An image is
saved to disk when it is first asked for and kept for others who ask soon; what is kept is bounded,
the least lately read goes first. Bytes go out as fast as each reader takes them, a piece in turn,
to so many readers at once and to one peer not faster than `PEER_RATE` once it has had `PEER_BURST`.
Who takes none is cut off. One peer is one, whichever way it comes: by TLS, where its key is known,
or by the overlay, where its id is.
"""

import re
import shutil
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
import trio

from allocator.errors import AllocatorError
from allocator.images.archive import PIECE_BYTES, Archive, Place, read_archive
from allocator.images.disk import lack_of_room
from allocator.images.messages import (
    ImageRefusal,
    ImageReply,
    ImageRequest,
    Layer,
    parse_layer_target,
)
from allocator.images.plan import ImageWrong
from overlay.calls import CallRefused
from overlay.http.connection import ServerConnection
from overlay.http.errors import ClientGone
from overlay.http.head import BodyKind, Field, Framing, RequestHead, get
from overlay.names import Digest, PeerId
from overlay.pacing import Buckets

MAX_READERS = 16
MAX_READERS_PER_PEER = 2
"""A fetch reads one layer at a time from a source; a second covers a cut not seen here yet."""

PEER_BURST_MIB = 4096
PEER_RATE_MIB_S = 32.0
"""A member that fetches again and again has so much of our line; nobody needs it for long."""

SAVES_AT_ONCE = 1
MAX_WAITING_SAVES = 8
"""A save reads and writes the whole image; who finds more than these waiting asks another peer."""

MAX_SAVES_PER_PEER = 2
"""Under way or waiting for their turn: as many as a peer fetches at once."""

SAVES_BURST = 64
SAVES_PER_S = 0.1
"""Saves of one peer: a new machine may want all that there is, and nobody so all the time."""

SEND_STALL_S = 40.0
"""For a piece of 1 MiB: longer than it takes at the least rate that a fetch puts up with."""

_OK, _PARTIAL, _NOT_FOUND, _BAD_RANGE, _BUSY = 200, 206, 404, 416, 503
_RANGE = re.compile(rb"bytes=(\d{1,15})-")

log = structlog.get_logger()


class Saves(Protocol):
    """What is needed of the engine."""

    async def size_bytes(self, image: Digest) -> int | None:
        """Return how large an image is; None if it is not there."""
        ...

    async def save(self, image: Digest, path: Path, most_bytes: int) -> None:
        """Write an image's archive."""
        ...


@dataclass(slots=True)
class _Saved:
    path: Path
    archive: Archive
    size_bytes: int
    readers: int = 0


@dataclass(slots=True)
class _Saving:
    peer: PeerId
    ended: trio.Event = field(default_factory=trio.Event)


class ImageSource:
    """Answers image calls, and reads of layers by the gateway.

    Args:
        engine: has the images.
        named: returns the image that a request may have, or refuses it by `CallRefused`.
        folder: where archives are kept; emptied first.
        bound_bytes: of what is kept there; 0 hands nothing on.
        sent: called with each count of bytes that went out.
        who: returns the peer that a gateway's caller is.
    """

    def __init__(
        self,
        engine: Saves,
        named: Callable[[PeerId, ImageRequest], Awaitable[Digest]],
        folder: Path,
        bound_bytes: int,
        sent: Callable[[int], None] = lambda _: None,
        who: Callable[[str], str] = str,
    ) -> None:
        self._engine = engine
        self._named = named
        self._folder = folder
        self._bound_bytes = bound_bytes
        self._sent = sent
        self._who = who
        self._saved: OrderedDict[Digest, _Saved] = OrderedDict()
        self._saving: dict[Digest, _Saving] = {}
        self._saves = trio.Semaphore(SAVES_AT_ONCE)
        self._readers: Counter[str] = Counter()
        self._pace: Buckets[str] = Buckets()
        self._save_pace: Buckets[PeerId] = Buckets()
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def kept_bytes(self) -> int:
        """What is kept on disk for others."""
        return sum(saved.size_bytes for saved in self._saved.values())

    async def answer(self, peer: PeerId, request: ImageRequest) -> ImageReply:
        """Answer an image call.

        Raises:
            CallRefused: with a code of `ImageRefusal`.
        """
        image = await self._named(peer, request)
        try:
            size = await self._engine.size_bytes(image)
            if size is None:
                raise CallRefused(ImageRefusal.ABSENT, "the image is not here")
            if size > self._bound_bytes:
                raise CallRefused(
                    ImageRefusal.TOO_LARGE, "the image is larger than what is kept for others"
                )
            if not request.prepare:
                return ImageReply(size_bytes=size)
            saved = await self._prepared(image, size, peer)
        except (AllocatorError, ImageWrong, OSError) as exc:
            raise CallRefused(ImageRefusal.FAILED, str(exc)) from exc
        layers = (
            Layer(diff_id=d, size_bytes=p.size_bytes) for d, p in saved.archive.layers.items()
        )
        return ImageReply(size_bytes=size, config=saved.archive.config, layers=tuple(layers))

    async def serve(self, client: ServerConnection, head: RequestHead, caller: str) -> None:
        """Answer one read of a layer."""
        caller = self._who(caller)
        names = parse_layer_target(head.target)
        saved = None if names is None or head.method != b"GET" else self._saved.get(names[0])
        place = None if saved is None or names is None else saved.archive.layers.get(names[1])
        if saved is None or place is None:
            await client.respond(_NOT_FOUND, [], b"no such layer was prepared here\n")
            return
        begin = _begin(head, place.size_bytes)
        if begin is None:
            fields = [(b"Content-Range", b"bytes */%d" % place.size_bytes)]
            await client.respond(_BAD_RANGE, fields)
            return
        busy = self._readers.total() >= MAX_READERS
        if busy or self._readers[caller] >= MAX_READERS_PER_PEER:
            await client.respond(_BUSY, [(b"Retry-After", b"1")], b"too many read here\n")
            return
        with self._reading(saved, caller):
            await self._send(client, saved.path, place, begin, caller)

    @contextmanager
    def _reading(self, saved: _Saved, caller: str) -> Iterator[None]:
        saved.readers += 1
        self._readers[caller] += 1
        try:
            yield
        finally:
            saved.readers -= 1
            self._readers[caller] -= 1
            if not self._readers[caller]:
                del self._readers[caller]

    async def _send(
        self, client: ServerConnection, path: Path, place: Place, begin: int, caller: str
    ) -> None:
        left = place.size_bytes - begin
        fields: list[Field] = [(b"Content-Type", b"application/x-tar")]
        if begin:
            last = place.size_bytes - 1
            fields.append((b"Content-Range", b"bytes %d-%d/%d" % (begin, last, place.size_bytes)))
        async with await trio.open_file(path, "rb") as file:
            await file.seek(place.offset + begin)
            framing = Framing(BodyKind.LENGTH, left)
            status, reason = (_PARTIAL, b"Partial Content") if begin else (_OK, b"OK")
            await client.start_response(
                status, reason, fields, framing, b"", trailers=None if left else ()
            )
            while left:
                await self._paced(caller)
                piece = await file.read(min(PIECE_BYTES, left))
                left -= len(piece)
                with trio.move_on_after(SEND_STALL_S) as patience:
                    await client.send_body(piece, trailers=None if left else ())
                if patience.cancelled_caught:
                    raise ClientGone(f"{caller} takes nothing")
                self._sent(len(piece))

    async def _paced(self, caller: str) -> None:
        """Wait until one more piece is within the caller's rate."""
        pace = partial(self._pace.take, caller, rate=PEER_RATE_MIB_S, burst=PEER_BURST_MIB)
        while True:
            wait_s = pace(trio.current_time())
            if not wait_s:
                return
            await trio.sleep(wait_s)

    async def _prepared(self, image: Digest, size: int, peer: PeerId) -> _Saved:
        while (saving := self._saving.get(image)) is not None:
            await saving.ended.wait()
        if (saved := self._saved.get(image)) is not None:
            self._saved.move_to_end(image)
            return saved
        self._insist_on_turn(peer)
        saving = self._saving[image] = _Saving(peer)
        try:
            async with self._saves:
                saved = self._saved[image] = await self._save(image, size)
            return saved
        finally:
            del self._saving[image]
            saving.ended.set()

    def _insist_on_turn(self, peer: PeerId) -> None:
        """Refuse a save that is too many, of all or of one peer."""
        if len(self._saving) >= MAX_WAITING_SAVES:
            raise CallRefused(ImageRefusal.BUSY, "too many images are being prepared here")
        own = sum(saving.peer == peer for saving in self._saving.values())
        pace = partial(self._save_pace.take, rate=SAVES_PER_S, burst=SAVES_BURST)
        if own >= MAX_SAVES_PER_PEER or pace(peer, trio.current_time()):
            raise CallRefused(ImageRefusal.BUSY, "this peer had too many images prepared here")

    async def _save(self, image: Digest, size: int) -> _Saved:
        self._make_room(size)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = lack_of_room(shutil.disk_usage(self._folder).free, size)
        if reason:
            raise CallRefused(ImageRefusal.NO_ROOM, reason)
        path = self._folder / f"{image.removeprefix('sha256:')}.tar"
        begun = trio.current_time()
        try:
            await self._engine.save(image, path, self._bound_bytes)
            archive = await trio.to_thread.run_sync(read_archive, path, image)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        seconds = round(trio.current_time() - begun, 3)
        log.info("image.prepared", image=image, bytes=path.stat().st_size, seconds=seconds)
        return _Saved(path, archive, path.stat().st_size)

    def _make_room(self, size: int) -> None:
        """Drop what was read least lately, as far as nobody reads it."""
        for image in [i for i, saved in self._saved.items() if not saved.readers]:
            if self.kept_bytes + size <= self._bound_bytes:
                return
            self._saved.pop(image).path.unlink(missing_ok=True)
        if self.kept_bytes + size > self._bound_bytes:
            raise CallRefused(ImageRefusal.BUSY, "other images are being read here")


def _begin(head: RequestHead, size: int) -> int | None:
    """Return where a request wants to begin; None if there is nothing."""
    asked = get(head.headers, b"range")
    if asked is None:
        return 0
    match = _RANGE.fullmatch(asked.strip())
    begin = int(match[1]) if match else size
    return begin if begin < size else None
