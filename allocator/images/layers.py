"""The layers of one image while they come: files that grow, and are checked as they do."""

import hashlib
import shutil
import time
from collections.abc import AsyncIterable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import trio

from allocator.images.archive import PIECE_BYTES
from overlay.errors import MyxoError
from overlay.names import Digest

KEPT_S = 3600.0
"""What came before a fetch failed is used by the next try, if that comes within an hour."""


class LayerFiles:
    """The folder of one image's layers.

    Args:
        folder: of this image; what an earlier try left there is used again.

    Attributes:
        version: is another one after each change of a file.
    """

    def __init__(self, folder: Path) -> None:
        self.version = 0
        self._change = trio.Event()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def whole(self, layer: Digest) -> Path | None:
        """Return the file of a layer that is complete and was checked."""
        path = self._path(layer, "tar")
        return path if path.exists() else None

    def reader(self, layer: Digest) -> BinaryIO | None:
        """Return a layer's file as far as it is, checked or not; None if there is none."""
        for suffix in ("part", "tar"):  # it may be renamed from the one to the other meanwhile
            with suppress(FileNotFoundError):
                return self._path(layer, suffix).open("rb")
        return None

    def discard(self, layer: Digest) -> None:
        """Throw away what there is of a layer."""
        self._path(layer, "part").unlink(missing_ok=True)
        self.tell()

    def tell(self) -> None:
        """Let those know who wait for a change."""
        self.version += 1
        self._change.set()
        self._change = trio.Event()

    async def after(self, version: int) -> None:
        """Return when something has changed since there was `version`."""
        while self.version == version:
            await self._change.wait()

    async def open(self, layer: Digest) -> "GrowingLayer":
        """Return a layer's file, to go on at its end."""
        path = self._path(layer, "part")
        return await trio.to_thread.run_sync(GrowingLayer, path, layer, self.tell)

    def _path(self, layer: Digest, suffix: str) -> Path:
        return self._folder / f"{layer.removeprefix('sha256:')}.{suffix}"

    async def remove(self) -> None:
        """Remove the folder."""
        await trio.to_thread.run_sync(lambda: shutil.rmtree(self._folder, ignore_errors=True))


class GrowingLayer:
    """A part of a layer on disk, and the hash of its bytes; blocks while it is made.

    Attributes:
        size_bytes: what there is.
    """

    def __init__(self, path: Path, layer: Digest, grew: Callable[[], None]) -> None:
        self._grew = grew
        self._path = path
        self._layer = layer
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        path.touch(mode=0o600)
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                self._take(piece)

    async def extend(self, pieces: AsyncIterable[bytes]) -> None:
        """Append what comes, and go on reading meanwhile; what came before a failure is kept.

        Raises:
            MyxoError: as `pieces` does.
            OSError: it cannot be written.
        """
        send, receive = trio.open_memory_channel[list[bytes]](1)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._append_all, receive)
                with suppress(trio.BrokenResourceError):  # it is not written any more
                    await _in_batches(pieces, send)
        except* (MyxoError, OSError) as group:
            raise group.exceptions[0] from None

    async def complete(self) -> bool:
        """Return whether the bytes are those that the layer is named for; then they are kept."""
        if f"sha256:{self._hash.hexdigest()}" != self._layer:
            return False
        await trio.to_thread.run_sync(self._path.rename, self._path.with_suffix(".tar"))
        self._grew()
        return True

    async def _append_all(self, batches: "trio.MemoryReceiveChannel[list[bytes]]") -> None:
        """Append what is read, also what was read when the reading is cancelled."""
        with trio.CancelScope(shield=True):
            async with batches:
                async for pieces in batches:
                    await trio.to_thread.run_sync(self._append, pieces)
                    self._grew()

    def _append(self, pieces: list[bytes]) -> None:
        with self._path.open("ab") as file:
            for piece in pieces:
                file.write(piece)
                self._take(piece)

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size_bytes += len(piece)


async def _in_batches(
    pieces: AsyncIterable[bytes], send: "trio.MemorySendChannel[list[bytes]]"
) -> None:
    """Send pieces on by the megabyte, the last ones also when no more come."""
    waiting: list[bytes] = []
    count = 0
    async with send:
        try:
            async for piece in pieces:
                waiting.append(piece)
                count += len(piece)
                if count >= PIECE_BYTES:
                    await send.send(waiting)
                    waiting, count = [], 0
        finally:
            with trio.CancelScope(shield=True):
                await send.send(waiting)


def remove_old(folder: Path, kept_s: float, busy: Collection[str]) -> None:
    """Remove what tries left that are over for `kept_s`, but none in `busy`; blocks."""
    oldest = time.time() - kept_s
    for each in folder.iterdir() if folder.exists() else ():
        if each.name not in busy and _changed_at(each) <= oldest:
            shutil.rmtree(each, ignore_errors=True)


def _changed_at(folder: Path) -> float:
    """Return when a file in a folder last grew, or one came or went."""
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
