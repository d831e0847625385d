"""A daemon's Unix socket: JSON lines between processes of the same user on the same machine.

The first line a client sends says what it wants: `{"want": "status"}` is answered by one line;
other wants keep the connection and speak their own messages.
"""

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import trio
from pydantic import BaseModel, ValidationError

from overlay.errors import AddressTaken, MalformedMessage, PeerUnreachable, StreamCut

MAX_LINE = 1024 * 1024
"""A status of some thousand instances has some hundred KiB."""

STALL_S = 5.0
"""A reader on the same machine that takes nothing for this long hangs."""

MAX_PATH = 107
"""The longest path that fits a sockaddr_un."""

log = structlog.get_logger()


class ControlConnection:
    """One connection over a control socket; `send` may be called by several tasks."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def send(self, *messages: BaseModel | Mapping[str, Any]) -> None:
        """Send one line for each message, with no other task's line between them.

        Lines are never cut: once begun they are sent whatever is cancelled, or else the connection
        is closed.

        Raises:
            PeerUnreachable: the other process is gone, or reads nothing for `STALL_S`.
        """
        lines = b"".join(_line(message) for message in messages)
        try:
            async with self._sending:
                with trio.move_on_after(STALL_S, shield=True):
                    await self._stream.send_all(lines)
                    return
                await trio.aclose_forcefully(self._stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise PeerUnreachable("the process at the other end of the socket is gone") from exc
        raise PeerUnreachable("the process at the other end of the socket reads nothing")

    async def receive(self) -> bytes | None:
        """Return the next line without its end, or None when the other end closed.

        Raises:
            StreamCut: the connection ended within a line.
            MalformedMessage: the line is over the limit.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise MalformedMessage(f"a line of over {MAX_LINE} bytes")
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                if self._buffer:
                    raise StreamCut("the connection ended within a line")
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def switch(self) -> tuple[trio.SocketStream, bytes]:
        """Return the stream, and what came on it already, to go on without lines."""
        left = bytes(self._buffer)
        self._buffer.clear()
        return self._stream, left

    def descriptor(self) -> int:
        """Return the socket's, for another process to be given a copy of."""
        return self._stream.socket.fileno()

    def keep(self) -> "ControlConnection":
        """Return it as one that outlives the want and the control socket; the caller closes it."""
        kept = ControlConnection(trio.SocketStream(self._stream.socket.dup()))
        kept._buffer, self._buffer = self._buffer, kept._buffer
        return kept

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


Serve = Callable[[ControlConnection], Awaitable[None]]


async def serve_control(
    path: Path,
    status: Callable[[], Mapping[str, Any]],
    wants: Mapping[str, Serve],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the socket at `path` until cancelled; `started` is called when it listens.

    Raises:
        AddressTaken: another live process serves this path.
    """

    async def serve(stream: trio.SocketStream) -> None:
        connection = ControlConnection(stream)
        try:
            await _serve_connection(connection, status, wants)
        except (PeerUnreachable, MalformedMessage, ValidationError) as exc:
            log.debug("control.connection_ended", error=str(exc))
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()

    listener = trio.SocketListener(await _listen(path))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            task_status.started()
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def open_control(path: Path, want: str) -> AsyncIterator[ControlConnection]:
    """Connect to the daemon at `path` and say what is wanted.

    Raises:
        PeerUnreachable: no daemon answers there.
    """
    sock = trio.socket.socket(socket.AF_UNIX)
    try:
        await sock.connect(str(path))
    except OSError as exc:
        sock.close()
        raise PeerUnreachable(f"no daemon answers at {path}") from exc
    connection = ControlConnection(trio.SocketStream(sock))
    try:
        await connection.send({"want": want})
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            await connection.aclose()


def _line(message: BaseModel | Mapping[str, Any]) -> bytes:
    if isinstance(message, BaseModel):
        return message.model_dump_json().encode() + b"\n"
    return json.dumps(message, default=str).encode() + b"\n"


async def _serve_connection(
    connection: ControlConnection,
    status: Callable[[], Mapping[str, Any]],
    wants: Mapping[str, Serve],
) -> None:
    first = await connection.receive()
    if first is None:
        return
    try:
        want = json.loads(first)["want"]
    except (ValueError, KeyError, TypeError, RecursionError):
        await connection.send({"error": 'the first line must be {"want": …}'})
        return
    if want == "status":
        await connection.send(status())
    elif isinstance(want, str) and want in wants:
        await wants[want](connection)
    else:
        await connection.send({"error": f"unknown want {want!r}; known: status {' '.join(wants)}"})


async def _listen(path: Path) -> trio.socket.SocketType:
    if len(str(path).encode()) > MAX_PATH:
        raise AddressTaken(f"{path} is longer than a Unix socket's path may be ({MAX_PATH} bytes)")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        try:
            async with open_control(path, "status"):
                raise AddressTaken(f"another daemon serves {path}; stop it first")
        except PeerUnreachable:
            path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o177)  # holds for the whole process, so nothing may run meanwhile
    try:
        sock.bind(str(path))
    except OSError as exc:
        sock.close()
        raise AddressTaken(f"{path} cannot be listened on: {exc.strerror}") from exc
    finally:
        os.umask(old_mask)
    sock.listen(64)
    return trio.socket.from_stdlib_socket(sock)
