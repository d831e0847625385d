import threading

import trio
import trio.testing

from allocator.engine.client import opened


class Opening:
    """Opens itself when told to, and says when it was closed."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.closed = threading.Event()

    def open(self) -> "Opening":
        self.began.set()
        self.go.wait()
        return self

    def close(self) -> None:
        self.closed.set()


async def test_what_was_opened_is_returned_open() -> None:
    opening = Opening()
    opening.go.set()
    assert await opened(opening.open, trio.CapacityLimiter(1)) is opening
    assert not opening.closed.is_set()


async def test_what_opens_after_a_cancel_is_closed() -> None:
    opening = Opening()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened, opening.open, trio.CapacityLimiter(1))
            await trio.to_thread.run_sync(opening.began.wait)
            nursery.cancel_scope.cancel()
        opening.go.set()
        await trio.to_thread.run_sync(opening.closed.wait)
