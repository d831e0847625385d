"""TCP listeners whose errors say which port is taken, what for, and by whom."""

import errno
import socket
from typing import cast

import structlog
import trio

from overlay.advertising import host_port
from overlay.errors import AddressTaken
from overlay.ports import port_taken

PORTS_TO_TRY = 50
"""How far a default port moves on before it gives up."""

_LAST_PORT = 65535

log = structlog.get_logger()


async def listen(
    host: str, port: int, *, what: str, device: str = "", backlog: int = 1024
) -> trio.SocketListener:
    """Return a TCP listener on one address, and on one interface only if `device` names it.

    Raises:
        AddressTaken: naming the port, what it was for, and who holds it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        await sock.bind((host, port))
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise AddressTaken(f"{what}: {port_taken(port)}") from exc
        raise AddressTaken(
            f"{host_port(host, port)} for {what} cannot be listened on: {exc.strerror}"
        ) from exc
    return trio.SocketListener(sock)


async def listen_near(host: str, port: int, *, what: str, exact: bool) -> trio.SocketListener:
    """Return a listener on `port`, or on the next free one if `port` is only a default.

    Raises:
        AddressTaken: the port was asked for (`exact`), or none near it is free.
    """
    last = port if exact or port == 0 else min(port + PORTS_TO_TRY - 1, _LAST_PORT)
    first: AddressTaken | None = None
    for candidate in range(port, last + 1):
        try:
            listener = await listen(host, candidate, what=what)
        except AddressTaken as exc:
            if candidate == last:
                raise
            first = first or exc
            continue
        if first is not None:
            log.warning(
                "port.moved", what=what, used=candidate, instead_of=port, because=str(first)
            )
        return listener
    raise AddressTaken(f"no port from {port} on is free for {what}")


def port_of(listener: trio.SocketListener) -> int:
    """Return the port that a listener is bound to."""
    return cast("int", listener.socket.getsockname()[1])
