"""Messages and open sockets between two processes of one user, over a Unix socket.

One message is one packet (SOCK_SEQPACKET), with the sockets that belong to it (SCM_RIGHTS), so that
neither can be mistaken for another's. The kernel holds back a sender whose reader is slow.
"""

import array
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from pydantic import BaseModel

from overlay.control import MAX_PATH
from overlay.errors import AddressTaken, MalformedMessage, PeerUnreachable

MAX_MESSAGE = 128 * 1024
"""Bytes; a request's unread head of 64 KiB fits as text. The kernel's usual bound is 208 KiB."""

MAX_SOCKETS = 4
"""Of one message."""


class Handover:
    """One end of the connection; `send` may be called by several tasks."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock

    async def send(self, message: BaseModel, sockets: Sequence[int] = ()) -> None:
        """Send a message, and copies of the descriptors `sockets`; the caller closes its own.

        Raises:
            PeerUnreachable: the other process is gone, or the message cannot be sent; why.
        """
        data = message.model_dump_json().encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sockets))]
        try:
            await self._socket.sendmsg([data], rights if sockets else [])
        except (OSError, trio.ClosedResourceError) as exc:
            raise PeerUnreachable(f"the process that takes over cannot be told: {exc}") from exc

    async def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors, for the caller to close; None at the end.

        Raises:
            MalformedMessage: it is over a bound; what came with it is closed.
        """
        size = socket.CMSG_SPACE(MAX_SOCKETS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(
                MAX_MESSAGE, size, socket.MSG_CMSG_CLOEXEC
            )
        except (OSError, trio.ClosedResourceError):
            return None
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) // 4 * 4])
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            for descriptor in descriptors:
                os.close(descriptor)
            raise MalformedMessage(f"a message of over {MAX_MESSAGE} bytes, or too many sockets")
        return (data, list(descriptors)) if data else None

    def close(self) -> None:
        """Close this end; the other one sees the end once it has read everything."""
        self._socket.close()


async def open_handover(path: str) -> Handover:
    """Connect to the process that waits at `path`.

    Raises:
        PeerUnreachable: none does.
    """
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await sock.connect(path)
    except OSError as exc:
        sock.close()
        raise PeerUnreachable(f"nobody waits at {path}") from exc
    return Handover(sock)


@asynccontextmanager
async def awaiting_handover(path: Path) -> AsyncIterator[trio.socket.SocketType]:
    """Yield a socket that listens at `path` for `accept_handover`; only this user gets to it.

    Raises:
        AddressTaken: it cannot be listened on.
    """
    if len(str(path).encode()) > MAX_PATH:
        raise AddressTaken(f"{path} is longer than a Unix socket's path may be ({MAX_PATH} bytes)")
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            path.unlink(missing_ok=True)
            await sock.bind(str(path))
            path.chmod(0o600)
        except OSError as exc:
            raise AddressTaken(f"{path} cannot be listened on: {exc.strerror}") from exc
        sock.listen(1)
        try:
            yield sock
        finally:
            with suppress(OSError):
                path.unlink()


async def accept_handover(sock: trio.socket.SocketType) -> Handover:
    """Return the connection of who came."""
    connection, _ = await sock.accept()
    return Handover(connection)


def socket_of(descriptor: int) -> trio.socket.SocketType:
    """Return the socket behind a descriptor that was received, which it owns from now on.

    Raises:
        MalformedMessage: it is none; it is closed.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise MalformedMessage("what was handed over is no socket") from exc
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)
