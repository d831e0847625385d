from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio

from allocator.instances.health_http2 import GRPC_CHECK
from allocator.instances.readiness import Question, answers
from overlay.http import RequestHead
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import CHUNKED, get
from overlay.http.transport import transport

Serve = Callable[[trio.SocketStream], Awaitable[None]]
SERVING, NOT_SERVING = b"\0\0\0\0\2\x08\1", b"\0\0\0\0\2\x08\2"


async def asked(serve: Serve, path: str) -> bool:
    """Ask whoever serves so on loopback for its health."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
            )
            port = listeners[0].socket.getsockname()[1]
            found = await answers(f"127.0.0.1:{port}", Question(path, http2=True))
            nursery.cancel_scope.cancel()
    return found


def http2(status: int, body: bytes = b"", heads: list[RequestHead] | None = None) -> Serve:
    async def answer(stream: ServerStream, head: RequestHead) -> None:
        if heads is not None:
            heads.append(head)
        await stream.start_response(status, b"", [], CHUNKED, body, trailers=[(b"a", b"b")])

    async def serve(stream: trio.SocketStream) -> None:
        await serve_http2(transport(stream), answer, stopping=trio.Event())

    return serve


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (302, False), (503, False)])
async def test_a_path_must_answer_2xx(status: int, well: bool) -> None:
    heads: list[RequestHead] = []
    assert await asked(http2(status, heads=heads), "/health?deep") is well
    assert [(head.method, head.target) for head in heads] == [(b"GET", b"/health?deep")]


@pytest.mark.parametrize(
    ("status", "body", "well"),
    [(200, SERVING, True), (200, NOT_SERVING, False), (200, b"", False), (500, SERVING, False)],
)
async def test_grpc_s_own_check_must_say_serving(status: int, body: bytes, well: bool) -> None:
    heads: list[RequestHead] = []
    assert await asked(http2(status, body, heads), GRPC_CHECK) is well
    assert heads[0].method == b"POST"
    assert get(heads[0].headers, b"content-type") == b"application/grpc"


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n\r\n", b""])
async def test_who_speaks_no_http2_is_not_well(said: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(said)
                await stream.receive_some()

    assert not await asked(serve, "/health")
