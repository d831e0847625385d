"""The caller's end of a byte stream, which waits only where there is nothing to read or no room.

Each call of trio's own streams gives every other task a turn, which takes as long as some hundred
small items do, and of a lane there is mostly more to read at once.
"""

from socket import socket

import trio

READ_BYTES = 1 << 16

CALLS_IN_A_ROW = 16
"""Without a wait; then the others have their turn."""


class Connection:
    """A socket that at most one task reads from and one writes to.

    Args:
        connected: which is this object's to close.
    """

    def __init__(self, connected: socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._in_a_row = 0

    async def receive_some(self) -> bytes:
        """Return what has come, at most `READ_BYTES` of it; nothing at the end.

        Raises:
            OSError: the connection broke.
        """
        await self._give_way()
        while True:
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await self._readable()

    async def receive_into(self, space: memoryview) -> int:
        """Put what has come there; return how much it is, 0 at the end.

        Raises:
            OSError: the connection broke.
        """
        await self._give_way()
        while True:
            try:
                return self._socket.recv_into(space)
            except BlockingIOError:
                await self._readable()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it.

        Raises:
            OSError: the connection broke.
        """
        await self._give_way()
        with memoryview(data) as whole, whole.cast("B") as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self._socket.send(view[sent:])
                except BlockingIOError:
                    self._in_a_row = 0
                    await trio.lowlevel.wait_writable(self._socket)

    def detach(self) -> socket:
        """Return the socket, which is the caller's from now on."""
        return self._socket

    def close(self) -> None:
        """End the connection."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def _readable(self) -> None:
        self._in_a_row = 0
        await trio.lowlevel.wait_readable(self._socket)

    async def _give_way(self) -> None:
        self._in_a_row += 1
        if self._in_a_row > CALLS_IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
