"""Servers to load: the benchmarks' fast one, and one that does what a test says."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
import trio

from bench import backend
from bench.lab.loading.target import Target, target_of

Serve = Callable[[trio.SocketStream], Awaitable[None]]
Answering = Callable[[Serve], Awaitable[Target]]


@pytest.fixture(scope="session")
def fast_url() -> Iterator[str]:
    """Where a server answers everything with 1 KiB."""
    with backend.serving() as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """`await answering(serve)` runs a server that treats each connection so; returns where."""
    async with trio.open_nursery() as nursery:

        async def start(serve: Serve) -> Target:
            async def careful(stream: trio.SocketStream) -> None:
                with suppress(trio.BrokenResourceError):  # the client went first
                    await serve(stream)

            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, careful, listeners)
            return target_of(f"http://127.0.0.1:{port}/")

        yield start
        nursery.cancel_scope.cancel()
