"""An HTTP/1.1 connection carried by a stream of the overlay, to machines that nobody can dial.

The overlay's stream goes through a relay, or a hole that was punched, or wherever a connection with
the peer goes; whose it is has been authenticated. Bytes go as messages, an end as the end mark, so
that a cut, which Yamux reports as an end, is never taken for one: half a response without a length
would pass for a whole one.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from overlay.connection import MuxedBytes
from overlay.errors import MalformedMessage, PeerUnreachable, ProtocolRefused, StreamCut
from overlay.framing import ByteStream, FramedStream
from overlay.host import Host
from overlay.http.transport import WatchedStream
from overlay.names import PeerId

HTTP_PROTOCOL = "/myxo/http/1.0.0"

MAX_CARRIED = 200
"""Open to one peer at once: a connection has 256 streams, and gossip and calls need some."""

SEND_TIMEOUT_S = 600.0
"""In which the other end makes room: it says so for each 128 KiB that it has read, which takes nine
minutes at the least rate that the slowest client may read at."""

_MESSAGE_BYTES = 65_000
"""With its length it fits what Yamux sends at once."""

_END_S = 1.0
"""For the end mark, where the other end does not read."""


class CarriedBytes(ByteStream, Protocol):
    """A stream of the overlay, or what another process passes on of one."""

    @property
    def is_outdated(self) -> bool:
        """Whether there is a better way to the peer by now."""

    @property
    def is_quiet(self) -> bool:
        """Whether both directions are open and nothing waits to be read."""

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be lost."""


class CarriedStream(WatchedStream):
    """A stream of the overlay as the bytes of an HTTP connection.

    Args:
        stream: just opened or accepted; this owns it from now on.
        peer: the authenticated other end.
        moves: count as unusable for another request once there is a better way to the peer.
    """

    def __init__(self, stream: CarriedBytes, peer: PeerId, *, moves: bool = False) -> None:
        self._stream = stream
        self._framed = FramedStream(stream, peer)
        self._moves = moves
        self._left = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""
        whole = bytes(data)
        try:
            for at in range(0, len(whole), _MESSAGE_BYTES):
                await self._framed.send(whole[at : at + _MESSAGE_BYTES])
        except StreamCut as exc:
            raise trio.BrokenResourceError("the carried connection is lost") from exc

    async def wait_send_all_might_not_block(self) -> None:
        """Return; `send_all` waits by itself."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End this end's direction."""
        try:
            await self._framed.finish()
        except StreamCut as exc:
            raise trio.BrokenResourceError("the carried connection is lost") from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what came, or none once the other end has ended its direction."""
        if not self._left:
            try:
                self._left = await self._framed.receive() or b""
            except (StreamCut, MalformedMessage) as exc:
                raise trio.BrokenResourceError("the carried connection is lost") from exc
        most = len(self._left) if max_bytes is None else max_bytes
        taken, self._left = self._left[:most], self._left[most:]
        return taken

    async def aclose(self) -> None:
        """Close in order; if that is cancelled, the other end sees a cut."""
        try:
            with trio.move_on_after(_END_S):
                await self._framed.finish()
        except StreamCut:
            await trio.lowlevel.checkpoint()
        finally:
            await self._framed.aclose()

    def quiet(self) -> bool:
        """Whether it stands and nothing waits to be read, and it is still the way to go."""
        unread = self._left or self._framed.unread
        outdated = self._moves and self._stream.is_outdated
        return self._stream.is_quiet and not unread and not outdated

    def lost(self) -> bool:
        """Whether it is known to be lost both ways."""
        return self._stream.is_lost


async def open_carried(
    host: Host, connect: Callable[[PeerId], Awaitable[None]], peer: PeerId
) -> CarriedStream:
    """Return a connection to the gateway of `peer`, by whatever way leads to it.

    Args:
        host: this peer's.
        connect: connects to a peer.
        peer: whose gateway.

    Raises:
        PeerUnreachable: it cannot be reached, or has no gateway.
    """
    return CarriedStream(await open_carried_bytes(host, connect, peer), peer, moves=True)


async def open_carried_bytes(
    host: Host, connect: Callable[[PeerId], Awaitable[None]], peer: PeerId
) -> MuxedBytes:
    """Return the bytes of such a connection; arguments and errors as of `open_carried`."""
    await connect(peer)
    try:
        return await host.open_bytes(peer, HTTP_PROTOCOL, relayed=None)
    except ProtocolRefused as exc:
        raise PeerUnreachable(str(exc)) from exc
