"""What goes on beside an Envoy, and until when."""

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from proxy.envoy.service import going_on


async def test_what_is_woken_as_the_block_ends_has_done_its_work_before_what_follows(
    tmp_path: Path,
) -> None:
    """A task that is about to go on cannot be cancelled before its next wait."""
    folder = tmp_path / "folder"
    folder.mkdir()
    news = trio.Event()

    async def write() -> None:
        await news.wait()
        (folder / "file").touch()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with going_on(nursery, write):
            await wait_all_tasks_blocked()
            news.set()
        (folder / "file").unlink()
        folder.rmdir()


async def test_it_has_ended_behind_a_block_that_is_cancelled() -> None:
    ended: list[str] = []

    async def rest() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("rest")

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0):
            async with going_on(nursery, rest):
                await trio.sleep_forever()
        assert ended == ["rest"]
