"""Clients and servers that break off at every phase: what the proxy keeps of them afterwards.

One request after the other, each with another misbehaviour, on a connection of its own. Now and
then a good one is asked, which has to be answered. Afterwards the proxy may hold neither files nor
memory of what is gone.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from bench.client import OK, AnswerFailed, ask
from bench.machine import memory_mib, open_files
from bench.proxy_rates import Target
from bench.stats import table

REQUESTS, REQUESTS_QUICK = 100_000, 1_000
LARGE = 2_000_000
SETTLED_S = 15.0
"""For the last connections to be closed; a lingering one takes two seconds."""

_NO_LINGER = struct.pack("ii", 1, 0)


def connects(_sock: socket.socket, _path: bytes) -> None:
    """Connect and say nothing."""


def half_a_head(sock: socket.socket, path: bytes) -> None:
    """Break off within the head."""
    sock.sendall(b"GET %b0 HTTP/1.1\r\nHos" % path)


def no_patience(sock: socket.socket, path: bytes) -> None:
    """Break off before the answer."""
    sock.sendall(_get(path + b"%d" % LARGE))


def half_a_body(sock: socket.socket, path: bytes) -> None:
    """Break off within the request's body."""
    sock.sendall(_post(path, 100_000) + bytes(50_000))


def half_an_answer(sock: socket.socket, path: bytes) -> None:
    """Break off within the answer's body."""
    sock.sendall(_get(path + b"%d" % LARGE))
    sock.recv(10_000)


def byte_by_byte(sock: socket.socket, path: bytes) -> None:
    """Send a head in small pieces, read the answer, and go in order."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in _get(path + b"10"):
        sock.sendall(bytes([byte]))
    sock.recv(10_000)
    sock.shutdown(socket.SHUT_WR)


def silent_server(sock: socket.socket, path: bytes) -> None:
    """Ask what resets the connection instead of an answer."""
    sock.sendall(_get(path + b"silent/0"))
    sock.recv(10_000)


def cutting_server(sock: socket.socket, path: bytes) -> None:
    """Ask what resets the connection in the middle of its answer, and read to the end."""
    sock.sendall(_get(path + b"cut/100000"))
    while sock.recv(100_000):
        pass


WAYS: tuple[Callable[[socket.socket, bytes], None], ...] = (
    connects,
    half_a_head,
    no_patience,
    half_a_body,
    half_an_answer,
    byte_by_byte,
    cutting_server,
)
"""All but `silent_server`: an instance that fails before it answers is left alone for seconds,
which the good requests would meet."""


def measure(target: Target, *, quick: bool) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        target: where `bodies` answers through the proxy.
        quick: fewer requests.

    Raises:
        AnswerFailed: a good request was not answered.
    """
    assert target.pid is not None  # noqa: S101  (for the type checker: it is the proxy's)
    count = REQUESTS_QUICK if quick else REQUESTS
    files = open_files(target.pid)
    misbehave(target.url, count // 10)
    _settled(target.pid, files)
    before = memory_mib(target.pid)
    misbehave(target.url, count)
    misbehave(target.url, 1, (silent_server,))
    files_after = _settled(target.pid, files)
    after = memory_mib(target.pid)
    figures = {
        "abuse_requests": count,
        "abuse_growth_mib": after["pss"] - before["pss"],
        "abuse_files_left": max(0, files_after - files),
    }
    columns = ["broken off at every phase", "before", f"after {count:,} requests"]
    rows = [
        ["memory, MiB RSS", f"{before['rss']:.1f}", f"{after['rss']:.1f}"],
        ["memory, MiB PSS", f"{before['pss']:.1f}", f"{after['pss']:.1f}"],
        ["files open", str(files), str(files_after)],
    ]
    return figures, table(columns, rows)


def misbehave(
    url: str, count: int, ways: tuple[Callable[[socket.socket, bytes], None], ...] = WAYS
) -> None:
    """Send so many requests, in each of `ways` in turn; before each hundred one that is good.

    Raises:
        AnswerFailed: that was not answered 200.
    """
    parts = urlsplit(url)
    path = parts.path.encode()
    for number in range(count):
        if number % 100 == 0 and (answer := ask(f"{url}0")).status != OK:
            raise AnswerFailed(f"a good request was answered {answer.status}: {answer.text}")
        sock = socket.create_connection((parts.hostname, parts.port or 80), 10.0)
        try:
            ways[number % len(ways)](sock, path)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        except OSError:
            pass  # the other end broke off first, as some are to
        finally:
            sock.close()


def _settled(pid: int, most: int) -> int:
    """Return how many files a process has open once they are `most` or fewer, or after a while."""
    deadline = time.monotonic() + SETTLED_S
    while (files := open_files(pid)) > most and time.monotonic() < deadline:
        time.sleep(0.1)
    return files


def _get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path


def _post(path: bytes, size: int) -> bytes:
    return b"POST %b0 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (path, size)
