"""Whether the network under a TCP connection still leads to its other end, by the kernel's word.

Two machines that both stand can lose the path between them, and no reset says so: the kernel sends
what was not acknowledged again for a quarter of an hour. A machine that is merely slow, or whose
program does not read, acknowledges all the same (RFC 9293 section 3.8.6.1: a closed window is
probed, and the probes are answered), so the two can be told apart by what the kernel counts, as
`struct tcp_info` of Linux shows it. Where nothing is under way to be acknowledged, keep-alive
probes are (RFC 9293 section 3.8.4).
"""

import socket
import struct

from trio.socket import SocketType

SILENT_MS = 2000
"""Nothing was acknowledged for so long; a WAN's round trip is a tenth of it."""

RESENT = 3
"""Sent again so often in vain, by waits that double: at 5 % loss once in 160,000 times."""

KEEP_IDLE_S, KEEP_INTERVAL_S, KEEP_COUNT = 3, 1, 3
"""Of keep-alive probes: when the first is sent, how soon the next ones, and how many."""

GIVEN_UP_MS = 10_000
"""Of what a connection that somebody always reads sends; membership calls a peer dead in three."""

_TCP_INFO = struct.Struct("=8B 13I")
"""State, then counters of bytes, then words up to `tcpi_last_ack_recv`; stable since Linux 2.6."""

_RETRANSMITS, _PROBES, _UNACKED, _LAST_ACK = 2, 3, 12, 20


def watch(sock: SocketType) -> None:
    """Have the kernel ask whether the other end is there while nothing else is sent to it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)


def give_up_on(sock: SocketType) -> None:
    """Have the kernel end the connection soon after its path is cut.

    Only for connections whose other end always reads: a closed window would end them, too.
    """
    watch(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP_MS)


def is_cut(sock: SocketType) -> bool:
    """Whether what was sent is not acknowledged any more; False for a socket that is closed."""
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return False
    if len(told) < _TCP_INFO.size:
        return False
    found: tuple[int, ...] = _TCP_INFO.unpack(told)
    return (
        found[_UNACKED] > 0
        and found[_RETRANSMITS] >= RESENT
        and found[_PROBES] == 0
        and found[_LAST_ACK] >= SILENT_MS
    )
