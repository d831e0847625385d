"""An archive that goes to the engine while its layers come."""

import io
import json
import tarfile
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from allocator.images.archive import PIECE_BYTES
from allocator.images.feed import Feed
from allocator.images.layers import LayerFiles
from allocator.images.plan import ImageWrong
from allocator.testing_images import FakeImages, make_image
from overlay.names import Digest

ONE, TWO = b"one" * 700_000, b"two" * 1000
IMAGE = make_image(ONE, TWO)
ONE_ID, TWO_ID = IMAGE.layers
SIZES = {ONE_ID: len(ONE), TWO_ID: len(TWO)}


class Reading:
    """A thread that reads an archive, as an engine's load does."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.came = b""
        self.ended = threading.Event()
        self.more = trio.Event()

    def pieces(self) -> Iterator[bytes]:
        try:
            for piece in self.feed.pieces():
                self.came += piece
                trio.from_thread.run_sync(self.more.set)
                yield piece
        finally:
            self.ended.set()

    async def run(self) -> bytes:
        return await trio.to_thread.run_sync(b"".join, self.pieces(), abandon_on_cancel=True)

    async def until(self, data: bytes) -> None:
        while data not in self.came:
            self.more = trio.Event()
            if data not in self.came:
                await self.more.wait()


def feed_in(folder: Path) -> tuple[LayerFiles, Feed]:
    files = LayerFiles(folder)
    return files, Feed(IMAGE.digest, IMAGE.config, list(IMAGE.layers), SIZES, files)


async def once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def put(files: LayerFiles, layer: Digest, data: bytes) -> bool:
    part = await files.open(layer)
    async with aclosing(once(data)) as pieces:
        await part.extend(pieces)
    return await part.complete()


async def test_what_is_here_of_a_layer_is_given_before_the_rest_has_come(tmp_path: Path) -> None:
    files, feed = feed_in(tmp_path)
    reading = Reading(feed)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading.run)
            await put(files, ONE_ID, ONE[:PIECE_BYTES])
            await reading.until(ONE[:PIECE_BYTES])
            assert ONE not in reading.came
            await put(files, ONE_ID, ONE[PIECE_BYTES:])
            await reading.until(ONE)
            assert b"manifest.json" not in reading.came, "a layer is still lacking"
            await put(files, TWO_ID, TWO)
    with tarfile.open(fileobj=io.BytesIO(reading.came)) as tar:
        *_, last = tar.getnames()
        file = tar.extractfile(last)
        assert last == "manifest.json"
        assert file is not None
        assert len(json.load(file)[0]["Layers"]) == len(IMAGE.layers)
    taken = FakeImages()
    await taken.load([reading.came])
    assert taken.images[IMAGE.digest].layers == IMAGE.layers


@pytest.mark.parametrize("instead", [b"lie" * 700_000, b"short"])
async def test_an_archive_whose_layer_turns_out_wrong_is_cut_before_its_manifest(
    tmp_path: Path, instead: bytes
) -> None:
    files, feed = feed_in(tmp_path)
    reading = Reading(feed)
    with trio.fail_after(20), pytest.RaisesGroup(pytest.RaisesExc(ImageWrong, match="thrown away")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading.run)
            assert not await put(files, ONE_ID, instead)
            await reading.until(instead)
            await put(files, TWO_ID, TWO)
            files.discard(ONE_ID)
            await put(files, ONE_ID, ONE)
    assert b"manifest.json" not in reading.came


async def test_a_layer_of_another_size_than_stated_cuts_the_archive(tmp_path: Path) -> None:
    files = LayerFiles(tmp_path)
    sizes = {ONE_ID: len(ONE) + 1, TWO_ID: len(TWO)}
    feed = Feed(IMAGE.digest, IMAGE.config, list(IMAGE.layers), sizes, files)
    with trio.fail_after(20), pytest.RaisesGroup(pytest.RaisesExc(ImageWrong, match="as stated")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Reading(feed).run)
            await put(files, ONE_ID, ONE)


async def test_a_reader_ends_with_the_fetch_although_nobody_waits_for_it(tmp_path: Path) -> None:
    files, feed = feed_in(tmp_path)
    reading = Reading(feed)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading.run)
            await put(files, ONE_ID, ONE)
            await reading.until(ONE)
            nursery.cancel_scope.cancel()
        feed.end()
        assert await trio.to_thread.run_sync(reading.ended.wait, 10)
