"""The health of an instance that speaks HTTP/2: a path that answers 2xx, or gRPC's own check.

A gRPC server has no paths to GET. Most offer the health service of gRPC's health checking protocol
instead, which is asked where `health` is `/grpc.health.v1.Health/Check`: by an empty message for
the server as a whole, and the answer has to be SERVING.
"""

from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

import trio

from overlay.http.errors import BadResponse
from overlay.http.h2_frames import ConnectionFault
from overlay.http.h2_link import Link
from overlay.http.h2_upstream import UpstreamStream
from overlay.http.head import FINAL, NO_BODY, Field, Framing
from overlay.http.head import BodyKind as Kind
from overlay.http.transport import transport

GRPC_CHECK = "/grpc.health.v1.Health/Check"

_EMPTY_MESSAGE = bytes(5)
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""A message of two bytes, not compressed: field 1 is 1."""

_MAX_ANSWER = 4096
_GRPC_FIELDS: tuple[Field, ...] = ((b"Content-Type", b"application/grpc"), (b"TE", b"trailers"))


async def is_healthy(stream: trio.SocketStream, address: str, path: str) -> bool:
    """Ask an instance once; false if it does not answer as it should.

    Args:
        stream: a new connection; it is closed.
        address: of the instance.
        path: to ask for.
    """
    link = Link(transport(stream), client=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, link)
        try:
            return await _ask(UpstreamStream(link.open_channel(), reused=False), address, path)
        except (trio.BrokenResourceError, BadResponse):
            return False
        finally:
            nursery.cancel_scope.cancel()


async def _run(link: Link) -> None:
    with suppress(ConnectionFault):
        await link.run()


async def _ask(upstream: UpstreamStream, address: str, path: str) -> bool:
    host = (b"Host", address.encode())
    if path == GRPC_CHECK:
        fields = (host, *_GRPC_FIELDS)
        status, answer = await _answer(upstream, b"POST", path, fields, _EMPTY_MESSAGE)
        return status == HTTPStatus.OK and answer == _SERVING
    status, _ = await _answer(upstream, b"GET", path, (host,), b"")
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


async def _answer(
    upstream: UpstreamStream, method: bytes, path: str, fields: Sequence[Field], body: bytes
) -> tuple[int, bytes]:
    """Return the status and the body, which only its beginning is read of."""
    framing = Framing(Kind.LENGTH, len(body)) if body else NO_BODY
    await upstream.send_request(method, path.encode(), fields, framing, body, trailers=())
    head = None
    while head is None or head.status < FINAL:
        await upstream.receive()
        head = upstream.take_head(b"", method)
    answer = upstream.take_body()
    while not upstream.body.done and len(answer) < _MAX_ANSWER:
        await upstream.receive()
        answer += upstream.take_body()
    return head.status, answer
