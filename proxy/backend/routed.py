"""Connections to what the routing table names: plain HTTP over TCP, wherever that is.

A target that turns out to be this proxy itself is refused at each connection, whatever name it goes
by; a circle through others ends where the request's Via is full.
"""

import ipaddress

import trio

from overlay.errors import PeerUnreachable
from overlay.http.gateway import open_tcp


async def open_target(address: str, own_port: int) -> trio.SocketStream:
    """Connect to the target at `address`; `own_port` is this proxy's.

    Raises:
        PeerUnreachable: nothing accepts there, or it is this proxy.
    """
    stream = await open_tcp(address, "the target in the routing table")
    if _is_own(stream, own_port):
        await trio.aclose_forcefully(stream)
        raise PeerUnreachable(f"{address} is this proxy itself")
    return stream


def _is_own(stream: trio.SocketStream, port: int) -> bool:
    """Whether a connection leads to `port` of this machine."""
    try:
        here, there = stream.socket.getsockname()[0], stream.socket.getpeername()
    except OSError:  # it is lost already, and fails where it is used
        return False
    return there[1] == port and (here == there[0] or ipaddress.ip_address(there[0]).is_loopback)
