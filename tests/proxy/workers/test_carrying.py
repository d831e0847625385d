import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from overlay.http.carried import CarriedStream
from overlay.names import PeerId
from proxy.workers.carrying import LentBytes, pass_on

PEER = PeerId("somebody")


@asynccontextmanager
async def carried() -> AsyncIterator[tuple[CarriedStream, CarriedStream, trio.CancelScope]]:
    """Yield a worker's end, the far end, and what ends the daemon between them."""
    (near, ours), (theirs, far) = (socket.socketpair() for _ in range(2))
    for sock in (near, ours, theirs, far):
        sock.setblocking(False)
    worker = CarriedStream(LentBytes(trio.socket.from_stdlib_socket(near)), PEER)
    gateway = CarriedStream(LentBytes(trio.socket.from_stdlib_socket(far)), PEER)
    async with trio.open_nursery() as nursery:
        held = LentBytes(trio.socket.from_stdlib_socket(theirs))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        between = trio.CancelScope()

        async def pass_on_until_cancelled() -> None:
            with between:
                await pass_on(held, stream)

        nursery.start_soon(pass_on_until_cancelled)
        with trio.fail_after(60):
            yield worker, gateway, between
            await worker.aclose()
            await gateway.aclose()


async def test_bytes_go_both_ways_to_an_end_in_good_order() -> None:
    async with carried() as (worker, gateway, _):
        assert worker.quiet()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.send_all, b"x" * 1_000_000)
            got = b""
            while len(got) < 1_000_000:
                got += await gateway.receive_some()
        await gateway.send_all(b"answer")
        assert await worker.receive_some() == b"answer"
        await gateway.send_eof()
        assert await worker.receive_some() == b""
        assert not worker.quiet()


async def test_the_end_of_what_is_between_is_a_cut_and_no_end() -> None:
    async with carried() as (worker, gateway, between):
        await gateway.send_all(b"half of an answer")
        assert await worker.receive_some() == b"half of an answer"
        between.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await worker.receive_some()
        assert not worker.quiet()


async def test_a_worker_that_lets_go_is_a_cut_for_the_gateway() -> None:
    async with carried() as (worker, gateway, _):
        await worker.send_all(b"half of a request")
        assert await gateway.receive_some() == b"half of a request"
        await trio.aclose_forcefully(worker)
        with pytest.raises(trio.BrokenResourceError):
            await gateway.receive_some()
