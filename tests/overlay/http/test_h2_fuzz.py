"""Anything at all may come on a connection: it ends in order, and nothing else happens."""

from collections.abc import Sequence

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.http import BadRequest, ClientGone, RequestHead
from overlay.http.h2_frames import PREFACE
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import CHUNKED
from overlay.http.transport import transport

# RFC 7541 C.3: GET, http, /, www.example.com, by index and as a literal that is remembered.
HEAD = b"\x82\x86\x84\x41\x0fwww.example.com"
POST = b"\x83\x86\x84\x41\x0fwww.example.com\x0f\x0d\x013"  # content-length: 3

payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [HEAD, POST, b"abc", b"", bytes(4), bytes(5), bytes(8), b"\0\4\0\0\0\7", b"\0\0\0\1"]
    ),
)
frames = st.builds(
    lambda kind, flags, stream, payload: (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    ),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25, 255]),
    st.integers(0, 7),
    payloads,
)
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


async def echo(stream: ServerStream, head: RequestHead) -> None:
    await stream.start_response(200, b"", [(b"X-Path", head.target)], CHUNKED, b"")
    async for data in stream.body:
        await stream.send_body(data)
    await stream.send_body(b"", trailers=stream.body.trailers)


async def served(pieces: Sequence[bytes]) -> None:
    """Have `pieces` come to a server; what is no client's fault is raised."""
    client, server = trio.testing.memory_stream_pair()
    bugs: list[Exception] = []

    async def answer(stream: ServerStream, head: RequestHead) -> None:
        try:
            await echo(stream, head)
        except (BadRequest, ClientGone):
            raise
        except Exception as exc:
            bugs.append(exc)
            raise

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_http2(transport(server), answer, stopping=trio.Event())
            nursery.cancel_scope.cancel()

        async def read() -> None:
            while await client.receive_some():
                pass

        nursery.start_soon(serve)
        nursery.start_soon(read)
        try:
            for piece in pieces:
                await client.send_all(piece)
            await client.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    assert bugs == []


def run(pieces: Sequence[bytes]) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(served, pieces, clock=clock)


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=12))
def test_frames_in_any_order_end_a_connection_at_the_worst(sent: list[bytes]) -> None:
    run([PREFACE + SETTINGS, *sent])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_bytes_that_mean_nothing_end_a_connection_at_the_worst(sent: list[bytes]) -> None:
    run([PREFACE + SETTINGS, *sent])
