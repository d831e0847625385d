"""Load at a fixed rate, free of coordinated omission, and answers read as fast as they come."""

import socket
import subprocess
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.client import END, OK, TIMEOUT_S, AnswerFailed, read_head, request, target
from bench.native import compiled

_READ = 256 * 1024


class Sent(NamedTuple):
    """One request of an open loop.

    Attributes:
        due_s: when it was to go out, in seconds from the beginning.
        latency_s: from then to the last byte of the answer.
        status: of the answer; 0 where none came.
    """

    due_s: float
    latency_s: float
    status: int


class OpenLoop:
    """A load that runs; `ended` waits for its end.

    Args:
        url: what is asked for.
        rate: requests a second, sent whatever the answers do.
        duration_s: seconds in which requests are due.
        connections: on which they go out, one request at a time on each.
        inside: the command that runs another in a namespace, if it is to be in one.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float,
        duration_s: float,
        connections: int,
        inside: Sequence[str] = (),
    ) -> None:
        parts = urlsplit(url)
        where = [parts.hostname or "", str(parts.port or 80), target(url)]
        how = [str(rate), str(duration_s), str(connections)]
        self._process = subprocess.Popen(
            [*inside, compiled("open_load"), *where, *how], stdout=subprocess.PIPE
        )
        self.began = time.monotonic()

    def ended(self) -> list[Sent]:
        """Return every request, in the order of their ends.

        Raises:
            AnswerFailed: the load could not be made.
        """
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise AnswerFailed(f"{self._process.args!r} ended with {self._process.returncode}")
        numbers = array("d", printed)
        rows = zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)
        return [Sent(due, latency, int(status)) for due, latency, status in rows]


def open_loop(url: str, *, rate: float, duration_s: float, connections: int) -> list[Sent]:
    """Send requests at a fixed rate; see `OpenLoop`."""
    return OpenLoop(url, rate=rate, duration_s=duration_s, connections=connections).ended()


def answered(sent: Sequence[Sent], url: str) -> list[float]:
    """Return the latencies.

    Raises:
        AnswerFailed: some request was not answered 200.
    """
    if failed := [one for one in sent if one.status != OK]:
        raise AnswerFailed(f"{url}: {len(failed)} of {len(sent)} failed, one with {failed[0]}")
    return [one.latency_s for one in sent]


def download_s(url: str, size: int) -> float:
    """Return how long it takes to ask for and read a body of `size` bytes.

    Raises:
        AnswerFailed: it is not answered 200 with so many bytes.
    """
    began = time.perf_counter()
    with _asking(url) as sock:
        sock.sendall(request(url))
        _read_answer(sock, url, size)
    return time.perf_counter() - began


def upload_s(url: str, size: int) -> float:
    """Return how long it takes to send a body of `size` bytes and get the answer.

    Raises:
        AnswerFailed: it is not answered 200 with an empty body.
    """
    block = memoryview(bytes(_READ))
    began = time.perf_counter()
    with _asking(url) as sock:
        head = request(url).replace(b"GET", b"POST", 1).removesuffix(b"\r\n")
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % size)
        for sent in range(0, size, _READ):
            sock.sendall(block[: size - sent])
        _read_answer(sock, url, 0)
    return time.perf_counter() - began


def idle_connections(url: str, count: int) -> list[socket.socket]:
    """Return so many connections, on each of which one request was answered.

    Raises:
        AnswerFailed: one was not.
    """
    message, found = request(url), []
    for _ in range(count):
        sock = _connected(url)
        found.append(sock)
        sock.sendall(message)
        data = sock.recv(_READ)
        if not data.startswith(b"HTTP/1.1 200"):
            raise AnswerFailed(f"{url}: connection {len(found)} was answered {data[:60]!r}")
    return found


@contextmanager
def _asking(url: str) -> Iterator[socket.socket]:
    """Connect for the length of a block; an error of the connection is the answer's."""
    with _connected(url) as sock:
        try:
            yield sock
        except OSError as exc:
            raise AnswerFailed(f"{url}: {exc}") from exc


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    try:
        return socket.create_connection((parts.hostname, parts.port or 80), TIMEOUT_S)
    except OSError as exc:
        raise AnswerFailed(f"{url}: {exc}") from exc


def _read_answer(sock: socket.socket, url: str, size: int) -> None:
    """Read an answer with a body of `size` bytes and drop it."""
    data = sock.recv(_READ)
    while data and END not in data:
        more = sock.recv(_READ)
        data = data + more if more else b""
    head, _, body = data.partition(END)
    if not data or (answer := read_head(data, 0.0)).status != OK:
        raise AnswerFailed(f"{url} was answered {head[:200]!r}")
    if int(answer.headers.get("content-length", "-1")) != size:
        raise AnswerFailed(f"{url}: expected {size} bytes, got {head!r}")
    left, buffer = size - len(body), bytearray(_READ)
    while left > 0:
        got = sock.recv_into(buffer)
        if not got:
            raise AnswerFailed(f"{url}: the answer ended {left} bytes too early")
        left -= got
