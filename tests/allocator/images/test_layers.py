import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from allocator.images.archive import PIECE_BYTES
from allocator.images.layers import LayerFiles
from allocator.images.plan import digest_of
from overlay.errors import PeerUnreachable

LAYER = b"layer" * 700_000
NAME = digest_of(LAYER)


async def cut_after(count: int) -> AsyncGenerator[bytes, None]:
    for at in range(0, count, PIECE_BYTES // 3):
        yield LAYER[at : min(at + PIECE_BYTES // 3, count)]
    if count < len(LAYER):
        raise PeerUnreachable("it was cut")


async def test_what_came_before_a_cut_is_kept_to_the_byte(tmp_path: Path) -> None:
    part = await LayerFiles(tmp_path).open(NAME)
    with pytest.raises(PeerUnreachable):
        async with aclosing(cut_after(2_500_001)) as pieces:
            await part.extend(pieces)
    assert part.size_bytes == 2_500_001
    again = await LayerFiles(tmp_path).open(NAME)
    assert again.size_bytes == 2_500_001


async def test_what_came_before_a_fetch_is_cancelled_is_kept(tmp_path: Path) -> None:
    async def then_silence() -> AsyncGenerator[bytes, None]:
        yield LAYER[:2_000_000]
        await trio.sleep_forever()

    part = await LayerFiles(tmp_path).open(NAME)
    async with aclosing(then_silence()) as pieces, trio.open_nursery() as nursery:
        nursery.start_soon(part.extend, pieces)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert part.size_bytes == 2_000_000


async def test_a_layer_that_is_whole_proves_itself(tmp_path: Path) -> None:
    files = LayerFiles(tmp_path)
    part = await files.open(NAME)
    async with aclosing(cut_after(len(LAYER))) as pieces:
        await part.extend(pieces)
    assert await part.complete()
    path = files.whole(NAME)
    assert path is not None
    assert path.read_bytes() == LAYER


async def test_a_disk_that_takes_nothing_ends_the_reading(tmp_path: Path) -> None:
    part = await LayerFiles(tmp_path / "gone").open(NAME)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        async with aclosing(cut_after(len(LAYER))) as pieces:
            await part.extend(pieces)
