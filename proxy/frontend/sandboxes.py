"""The proxy on 127.0.0.1 inside of containers: it accepts on sockets that their sandboxes hand it.

A sandbox holds an instance's network and listens on 127.0.0.1 there. It connects to the Unix socket
of this module, which is shared with sandboxes and with nothing else, and sends the listening socket
(SCM_RIGHTS) and its name. Whatever connects there then is an instance of this machine. Which one,
its allocator says when it puts one in, and that is kept: who calls while the allocator is away is
bound by its own limits no less. The hand-over ends with the connection that it came by: a sandbox
that is gone takes its socket along, and one that lives hands it to the next proxy.
"""

import array
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from overlay.control import MAX_PATH
from overlay.errors import AddressTaken
from overlay.leases import HandedOver, HandOverEnded
from overlay.names import SandboxId
from proxy.route.caller import Caller

MAX_SANDBOXES = 4096
"""Four times the instances that an allocator can have; each costs two file descriptors."""

HAND_OVER_S = 2.0
"""A sandbox sends its socket at once; whoever connects and sends nothing is let go."""

MAX_MESSAGE = 128
MAX_SOCKETS = 4
"""One is right; more are taken in only so that they can be closed."""

_MESSAGE = re.compile(rb"myxo-sandbox/1 ([0-9a-z]{1,64})\n")

log = structlog.get_logger()


class HandOverRefused(Exception):
    """What came over the socket is no sandbox's listening socket."""


class Desk(Protocol):
    """The allocator that the sandboxes are of."""

    async def tell(self, message: HandedOver | HandOverEnded) -> None:
        """Say it, if the allocator is there."""
        ...

    async def who_is_in(self, sandbox: SandboxId) -> Caller | None:
        """Return the instance in a sandbox, if the allocator is there and says so."""
        ...


Serve = Callable[[trio.SocketStream, str, Callable[[], Awaitable[Caller | None]]], Awaitable[None]]
"""Serves a connection from the sandbox of that name; the last finds out who is in it."""


@dataclass(slots=True)
class _Entrance:
    """One sandbox's listening socket, and who is in it once that was told."""

    listener: trio.SocketListener
    caller: Caller | None = None


class SandboxDoor:
    """Serves the instances in the sandboxes of one allocator.

    Args:
        path: of the Unix socket that sandboxes know.
        desk: the allocator.
        serve: serves a connection of an instance.
        connections: runs what `serve` does; may outlive this.
    """

    def __init__(self, path: Path, desk: Desk, serve: Serve, connections: trio.Nursery) -> None:
        self._path = path
        self._desk = desk
        self._serve = serve
        self._connections = connections
        self._entrances: dict[SandboxId, _Entrance] = {}

    async def announce(self, desk: Desk) -> None:
        """Tell an allocator that has just come (back) in which sandboxes this proxy answers."""
        self._desk = desk
        for name in list(self._entrances):
            await desk.tell(HandedOver(sandbox=name))

    def occupied(self, name: SandboxId, caller: Caller) -> None:
        """Take in which instance is in a sandbox; nothing happens if it has handed nothing over."""
        if (entrance := self._entrances.get(name)) is not None:
            entrance.caller = caller

    async def run(self) -> None:
        """Take in sandboxes until cancelled.

        Raises:
            AddressTaken: nothing can be listened on at the path.
        """
        async with _listening_at(self._path) as listener:
            await trio.serve_listeners(self._meet, [listener])

    async def _meet(self, stream: trio.SocketStream) -> None:
        """Take over a sandbox's socket, and accept there until the sandbox is gone."""
        async with stream:
            try:
                name, taken = await self._take(stream)
            except (HandOverRefused, OSError, trio.TooSlowError) as exc:
                log.warning("sandbox.refused", reason=str(exc) or "it sent nothing")
                return
            entrance = self._entrances[name] = _Entrance(taken)
            try:
                async with taken:
                    await self._desk.tell(HandedOver(sandbox=name))
                    await self._accept_until_end(name, entrance, stream)
            except* OSError as group:  # the socket was shut down by whoever has it too
                log.info("sandbox.lost", sandbox=name, reason=str(group.exceptions[0]))
            finally:
                del self._entrances[name]
                with trio.CancelScope(shield=True):  # bounded: it is a short line to a local socket
                    await self._desk.tell(HandOverEnded(sandbox=name))

    async def _take(self, stream: trio.SocketStream) -> tuple[SandboxId, trio.SocketListener]:
        if len(self._entrances) >= MAX_SANDBOXES:
            raise HandOverRefused(f"there are {MAX_SANDBOXES} sandboxes already")
        with trio.fail_after(HAND_OVER_S):
            name, taken = await receive_listener(stream.socket)
        if name in self._entrances:
            await taken.aclose()
            raise HandOverRefused(f"sandbox {name} has handed over its socket already")
        return name, taken

    async def _accept_until_end(
        self, name: SandboxId, entrance: _Entrance, stream: trio.SocketStream
    ) -> None:
        async def ask() -> Caller | None:
            if entrance.caller is None:
                entrance.caller = await self._desk.who_is_in(name)
            return entrance.caller

        async def serve(client: trio.SocketStream) -> None:
            await self._serve(client, name, ask)

        async def accept() -> None:
            await trio.serve_listeners(
                serve, [entrance.listener], handler_nursery=self._connections
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)  # there is nothing more to say: this is the end
            nursery.cancel_scope.cancel()


async def receive_listener(
    connection: trio.socket.SocketType,
) -> tuple[SandboxId, trio.SocketListener]:
    """Return the sandbox's name and its listening socket.

    Raises:
        HandOverRefused: something else came; it is closed.
    """
    size = socket.CMSG_SPACE(MAX_SOCKETS * array.array("i").itemsize)
    data, ancillary, flags, _ = await connection.recvmsg(MAX_MESSAGE, size, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) // 4 * 4])
    try:
        match = _MESSAGE.fullmatch(data)
        if match is None or flags & socket.MSG_CTRUNC or len(descriptors) != 1:
            raise HandOverRefused("what was sent is not one socket and a sandbox's name")
        return SandboxId(match[1].decode()), _as_listener(descriptors.pop())
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _as_listener(descriptor: int) -> trio.SocketListener:
    """Return the descriptor as a listener; it is closed if it is none on 127.0.0.1."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise HandOverRefused("what was handed over is no socket") from exc
    right = (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    listens = right and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.getsockname()[0] != "127.0.0.1":
        sock.close()
        raise HandOverRefused("what was handed over does not listen on 127.0.0.1")
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@asynccontextmanager
async def _listening_at(path: Path) -> AsyncIterator[trio.SocketListener]:
    """Listen at `path`, in the place of whoever did before; it appears only when it is ready.

    Everybody may connect who can enter the directory; only sandboxes and this user can.
    """
    fresh = path.with_name(f".{os.getpid()}")
    if len(str(fresh).encode()) > MAX_PATH:
        raise AddressTaken(f"{path} is longer than a Unix socket's path may be")
    sock = socket.socket(socket.AF_UNIX)
    try:
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        fresh.chmod(0o666)
        sock.listen(128)
        sock.setblocking(False)
        own = fresh.stat().st_ino
        fresh.rename(path)
    except OSError as exc:
        sock.close()
        raise AddressTaken(f"{path} cannot be listened on: {exc.strerror}") from exc
    try:
        async with trio.SocketListener(trio.socket.from_stdlib_socket(sock)) as listener:
            yield listener
    finally:
        with suppress(OSError):
            if path.stat().st_ino == own:
                path.unlink()
