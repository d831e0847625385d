"""Reading a layer from another allocator's gateway, from any byte on."""

from collections.abc import AsyncGenerator, Callable

import trio

from allocator.errors import ImageMissing
from overlay.addresses import is_hidden
from overlay.errors import PeerUnreachable
from overlay.http.errors import BadResponse, MalformedBody
from overlay.http.gateway import Carry, GatewayShut, carry_gateway, dial_gateway
from overlay.http.head import BodyKind, serialise_request
from overlay.http.transport import SendFailed
from overlay.http.upstream import UpstreamConnection
from overlay.names import PeerId
from overlay.records import PeerRecord
from overlay.tls import PeerTls

STALL_S = 10.0
"""Without a byte; a link that was cut is tried again after it."""

_OK, _PARTIAL = 200, 206


class ImageRoad:
    """Reads from gateways.

    Args:
        record: returns a peer's record, None when it is no member any more.
        tls: this peer's contexts.
        carry: opens connections over the overlay.
    """

    def __init__(
        self, record: Callable[[PeerId], PeerRecord | None], tls: PeerTls, carry: Carry
    ) -> None:
        self._record = record
        self._tls = tls
        self._carry = carry

    async def read(
        self, peer: PeerId, target: bytes, begin: int, size: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes `begin` to `size` of what `peer` has at `target`, as they come.

        Raises:
            PeerUnreachable: the connection cannot be made, is cut, or is silent for `STALL_S`.
            ImageMissing: the peer has no such thing, or not of this size.
        """
        connection = UpstreamConnection(await self._dial(peer))
        try:
            fields = [(b"Host", b"myxo")]
            if begin:
                fields.append((b"Range", b"bytes=%d-" % begin))
            await connection.send(serialise_request(b"GET", target, fields))
            async for piece in _body(connection, peer, begin, size):
                yield piece
        except (SendFailed, trio.BrokenResourceError, MalformedBody, BadResponse) as exc:
            raise PeerUnreachable(f"{peer} was cut while it gave an image: {exc}") from exc
        finally:
            with trio.CancelScope(shield=True):
                await connection.abort()

    async def _dial(self, peer: PeerId) -> trio.abc.Stream:
        record = self._record(peer)
        if record is None:
            raise PeerUnreachable(f"{peer} is gone")
        if is_hidden(record.addresses):
            return await carry_gateway(self._carry, peer)
        try:
            return await dial_gateway(record, self._tls)
        except GatewayShut:
            return await carry_gateway(self._carry, peer)


async def _body(
    connection: UpstreamConnection, peer: PeerId, begin: int, size: int
) -> AsyncGenerator[bytes, None]:
    head = None
    while head is None:
        head = connection.take_head(await _received(connection, peer), b"GET")
    if head.status != (_PARTIAL if begin else _OK):
        raise ImageMissing(f"{peer} answered with status {head.status} instead of a layer")
    if head.framing.kind is not BodyKind.LENGTH or head.framing.length != size - begin:
        raise ImageMissing(f"{peer} has a layer of another size than it said")
    if first := connection.take_body():
        yield first
    while not connection.body.done:
        if piece := connection.take_body(await _received(connection, peer)):
            yield piece


async def _received(connection: UpstreamConnection, peer: PeerId) -> bytes:
    data = await connection.receive(STALL_S)
    if not data:
        raise PeerUnreachable(f"{peer} {'is silent' if data is None else 'closed'}")
    return data
