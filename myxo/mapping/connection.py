"""The caller's end of a byte stream, which waits only where there is nothing to read or no room.

Each call of trio's own streams gives every other task a turn, which takes as long as some hundred
small items do, and of a lane there is mostly more to read at once.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from socket import socket
from typing import TypeVar

import trio
from trio.lowlevel import wait_readable, wait_writable

READ_BYTES = 1 << 16

CALLS_IN_A_ROW = 16
"""Without a wait; then the others have their turn."""

T = TypeVar("T")


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
        return await self._soon(partial(self._socket.recv, READ_BYTES), wait_readable)

    async def receive_into(self, space: memoryview) -> int:
        """Put what has come there; return how much it is, 0 at the end.

        Raises:
            OSError: the connection broke.
        """
        return await self._soon(partial(self._socket.recv_into, space), wait_readable)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it.

        Raises:
            OSError: the connection broke.
        """
        with memoryview(data) as whole, whole.cast("B") as view:
            sent = 0
            while sent < len(view):
                sent += await self._soon(partial(self._socket.send, view[sent:]), wait_writable)

    def detach(self) -> socket:
        """Return the socket, which is the caller's from now on."""
        return self._socket

    def close(self) -> None:
        """End the connection."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def _soon(
        self, call: Callable[[], T], possible: Callable[[socket], Awaitable[None]]
    ) -> T:
        """Return what a call returns as soon as it is possible, at once if it is and may be."""
        self._in_a_row += 1
        if self._in_a_row > CALLS_IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return call()
            except BlockingIOError:
                self._in_a_row = 0
                await possible(self._socket)
