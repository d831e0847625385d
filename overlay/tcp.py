"""TCP sockets for multiaddrs: listening, dialling, and saying what went wrong.

Whoever muxes streams on them always reads, so the kernel ends one whose path is cut: without that a
call would wait for a quarter of an hour on a machine that others still reach.
"""

import errno
import socket

import trio

from overlay.addresses import Address, InvalidAddress, parse_address
from overlay.errors import AddressTaken, PeerUnreachable, SettingsInvalid
from overlay.path import give_up_on
from overlay.ports import port_taken


async def listen_tcp(text: str) -> list[trio.SocketListener]:
    """Return listeners bound to a multiaddr, for the caller to close.

    Raises:
        AddressTaken: another process holds the port; says which, if that can be known.
        SettingsInvalid: it is no address, or not one of this machine's.
    """
    try:
        address = parse_address(text)
    except InvalidAddress as exc:
        raise SettingsInvalid(f"cannot listen: {exc}") from exc
    if address.relay is not None:
        raise SettingsInvalid(f"cannot listen on {text}: that is an address of {address.relay}")
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise AddressTaken(f"cannot listen on {text}: {port_taken(address.port)}") from exc
        raise SettingsInvalid(f"cannot listen on {text}: {exc.strerror or exc}") from exc
    for listener in listeners:
        # Not before it listens: from then on another program's listener finds the port taken as
        # ever, while `dial_tcp` may share it.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        give_up_on(listener.socket)  # what it accepts has that from it
    return listeners


async def dial_tcp(target: Address, source: Address | None = None) -> trio.SocketStream:
    """Return a TCP connection to the first of the target's addresses that accepts one.

    Args:
        target: where to.
        source: the address of one of this process's listeners, to dial from the same port: there
            a router between keeps a way back. Any free port if None.

    Raises:
        PeerUnreachable: none does; says the address and the system's reason.
    """
    failure: OSError | None = None
    try:
        found = await trio.socket.getaddrinfo(
            target.host, target.port, target.family, socket.SOCK_STREAM
        )
    except OSError as exc:
        raise PeerUnreachable(f"{target}: {exc.strerror or exc}") from exc
    except ValueError as exc:  # the scope of an IPv6 address that no resolver would be asked for
        raise PeerUnreachable(f"{target}: {exc}") from exc
    for family, kind, protocol, _, address in found:
        attempt = trio.socket.socket(family, kind, protocol)
        try:
            give_up_on(attempt)
            if source is not None:
                await _bind_beside(attempt, source)
            await attempt.connect(address)
            return trio.SocketStream(attempt)
        except OSError as exc:
            attempt.close()
            failure = exc
        except BaseException:
            attempt.close()
            raise
    why = failure.strerror if failure else "the name has no address"
    raise PeerUnreachable(f"{target}: {why}") from failure


async def _bind_beside(attempt: trio.socket.SocketType, source: Address) -> None:
    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    await attempt.bind((source.host, source.port))


def bound_address(listener: trio.SocketListener) -> Address:
    """Return where `listener` is bound."""
    host, port = listener.socket.getsockname()[:2]
    return Address("ip6" if ":" in host else "ip4", host, port)


def remote_of(stream: trio.abc.Stream) -> tuple[str, int] | None:
    """Return the IP address and port at the other end; None if it is gone already, or no socket."""
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return host, port
