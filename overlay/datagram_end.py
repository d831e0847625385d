"""A UDP socket to an instance as one end of a tunnel.

Datagrams have no end: where the other ends have none either, a tunnel ends by silence. Where one is
a stream that has ended, what is still under way gets a little time, then this end is over too.
"""

import errno
from math import inf

import trio

from overlay.errors import PeerUnreachable, SettingsInvalid
from overlay.settings import split_address

MAX_DATAGRAM_BYTES = 65_507
"""What UDP over IPv4 carries at most; a longer piece of a stream goes in several."""

LINGER_S = 2.0
"""After the other side has ended, answers may come for so long since the last one."""

_DROPPED = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.EAGAIN, errno.EPERM})
"""What a network does to one datagram, and does not end the rest."""


class DatagramEnd:
    """A connected UDP socket; see `tunnel.End`."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._until = inf
        self._waiting = trio.CancelScope()

    async def receive(self) -> bytes | None:
        """Return the next datagram; None is only after `finish`."""
        with trio.CancelScope(deadline=self._until) as self._waiting:
            try:
                data = await self._sock.recv(MAX_DATAGRAM_BYTES)
            except OSError as exc:
                raise trio.BrokenResourceError(f"nobody takes datagrams: {exc}") from exc
            if self._until < inf:
                self._until = trio.current_time() + LINGER_S
            return data
        return None

    async def send(self, data: bytes) -> None:
        """Send a datagram, or what of a stream does not fit one in several."""
        for at in range(0, len(data) or 1, MAX_DATAGRAM_BYTES):
            try:
                await self._sock.send(data[at : at + MAX_DATAGRAM_BYTES])
            except OSError as exc:
                if exc.errno not in _DROPPED:
                    raise trio.BrokenResourceError(f"nobody takes datagrams: {exc}") from exc

    async def finish(self) -> None:
        """Let `receive` end when nothing has come for a while."""
        self._until = self._waiting.deadline = trio.current_time() + LINGER_S
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the socket."""
        self._sock.close()
        await trio.lowlevel.checkpoint()

    async def cut(self) -> None:
        """Close the socket: there is no other way."""
        await self.aclose()


async def open_datagrams(address: str, what: str) -> DatagramEnd:
    """Return a socket for datagrams with `address`, which errors call `what`.

    Raises:
        PeerUnreachable: no datagram gets there from here.
    """
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    try:
        await sock.connect(split_address(address, ""))
    except (OSError, SettingsInvalid) as exc:
        sock.close()
        raise PeerUnreachable(f"{what} at {address} cannot be reached: {exc}") from exc
    return DatagramEnd(sock)
