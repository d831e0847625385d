"""HTTP clients that cost little themselves: plain blocking sockets and the system's clock."""

import gc
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
OK = 200
REPEAT_S = 0.02
"""Between two requests for what is refused."""

RETRY_S = 0.001
"""Between two attempts to connect to what is starting."""

ATTEMPT_S = 0.02
"""One attempt; a first packet that is lost while a bridge comes up is repeated only after 1 s."""

END = b"\r\n\r\n"
"""Of a head."""

_READ = 64 * 1024


class AnswerFailed(Exception):
    """What was measured did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and when it came.

    Attributes:
        first_byte_s: from just before the connect, or the first attempt at one.
        headers: by lower-case name.
        text: of an error.
    """

    status: int
    first_byte_s: float
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def server_timing(self) -> dict[str, float]:
        """Return the phases of the Server-Timing field, in seconds."""
        return server_timing(self.headers.get("server-timing", ""))


def server_timing(value: str) -> dict[str, float]:
    """Return the durations in a Server-Timing field's value, in seconds by name."""
    found = {}
    for entry in value.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if duration:
            found[name] = float(duration) / 1000
    return found


def request(url: str, *fields: str) -> bytes:
    """Return a GET request for `url` on a connection that is kept."""
    parts = urlsplit(url)
    first = (f"GET {target(url)} HTTP/1.1", f"Host: {parts.netloc}")
    return "\r\n".join([*first, *fields, "", ""]).encode()


def target(url: str) -> str:
    """Return what a request for `url` names: its path, and its query if it has one."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def ask(url: str, *, began: float | None = None) -> Answer:
    """Ask once on a connection of its own, trying to connect each millisecond until it works.

    Args:
        url: `http://HOST:PORT/PATH`.
        began: when the clock was started, by `time.perf_counter`; now if None.

    Raises:
        AnswerFailed: no whole answer came within `TIMEOUT_S`.
    """
    began = time.perf_counter() if began is None else began
    try:
        with _connect(url) as sock:
            sock.sendall(request(url))
            data = sock.recv(_READ)
            first_byte_s = time.perf_counter() - began
            while data and END not in data:
                more = sock.recv(_READ)
                data = data + more if more else b""
    except OSError as exc:
        raise AnswerFailed(f"{url}: {exc}") from exc
    if not data:
        raise AnswerFailed(f"{url} closed without an answer")
    return read_head(data, first_byte_s)


def read_head(data: bytes, first_byte_s: float) -> Answer:
    """Return the answer whose head, and perhaps more, is `data`."""
    status, headers = _head(data)
    text = "" if status == OK else data.partition(END)[2].decode("latin-1")
    return Answer(status, first_byte_s, headers, text)


def ask_until_ok(url: str) -> tuple[Answer, int]:
    """Ask again and again until the answer is 200; return it and how many others came before it.

    Its `first_byte_s` counts from the first attempt.

    Raises:
        AnswerFailed: nothing was 200 within `TIMEOUT_S`; says the last answer.
    """
    began, refused = time.perf_counter(), 0
    while (answer := ask(url, began=began)).status != OK:
        if time.perf_counter() - began > TIMEOUT_S:
            raise AnswerFailed(f"{url} was answered {answer.status}: {answer.text}")
        refused += 1
        time.sleep(REPEAT_S)
    return answer, refused


def latencies(
    url: str, *, rate: float, duration_s: float, fields: Sequence[str] = ()
) -> list[float]:
    """Return the latency of each request of a paced closed loop on one kept connection, in seconds.

    Requests are due `rate` times a second; one that is due while another is under way is sent as
    soon as that is answered. From just before the send to the last byte of the answer.

    Raises:
        AnswerFailed: an answer was not 200, or the connection ended.
    """
    message, found = request(url, *fields), []
    with _connect(url) as sock, _no_collection():
        size = _first_answer_size(sock, message, url)
        due = time.perf_counter()
        end = due + duration_s
        while due < end:
            _sleep_until(due)
            begun = time.perf_counter()
            sock.sendall(message)
            size(sock)
            now = time.perf_counter()
            found.append(now - begun)
            due = max(due + 1 / rate, now)
    return found


def requests_per_second(
    url: str,
    *,
    connections: int,
    duration_s: float,
    inside: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> float:
    """Return what `wrk` measures with one thread.

    Args:
        url: what is asked for.
        connections: at once, each with one request after the other.
        duration_s: whole seconds.
        inside: the command that runs another in a namespace, if it is to be in one.
        fields: further lines of each request's head.

    Raises:
        AnswerFailed: it is not there, or some answer was not 2xx or did not come.
    """
    command = [*inside, "wrk", "-t1", f"-c{connections}", f"-d{duration_s:g}s"]
    command += ["--timeout", "20s", *(part for field in fields for part in ("-H", field)), url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise AnswerFailed(f"wrk does not run: {exc}") from exc
    words = [line.split() for line in done.stdout.splitlines()]
    if any(line[:1] in (["Non-2xx"], ["Socket"]) for line in words):
        raise AnswerFailed(f"{url} under load:\n{done.stdout}")
    return next(float(line[1]) for line in words if line[:1] == ["Requests/sec:"])


def _connect(url: str) -> socket.socket:
    address = urlsplit(url)
    target = (address.hostname or "", address.port or 80)
    deadline = time.perf_counter() + TIMEOUT_S
    while True:
        sock = socket.socket()
        sock.settimeout(ATTEMPT_S)
        try:
            sock.connect(target)
        except OSError:
            sock.close()
            if time.perf_counter() > deadline:
                raise
            time.sleep(RETRY_S)
        else:
            sock.settimeout(TIMEOUT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock


def _head(data: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = data.partition(END)[0].decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}


class _Reader:
    """Reads one answer whole; its body is always of one size, its head nearly so."""

    def __init__(self, body: int) -> None:
        self._body = body

    def __call__(self, sock: socket.socket) -> None:
        data = sock.recv(_READ)
        while (end := data.find(END)) < 0 or len(data) < end + len(END) + self._body:
            more = sock.recv(_READ)
            if not more:
                raise AnswerFailed("the connection ended within an answer")
            data += more
        if data[9:12] != b"200":
            raise AnswerFailed(f"the answer was {data[:40]!r}")


def _first_answer_size(sock: socket.socket, message: bytes, url: str) -> _Reader:
    """Ask once, outside of what is measured, to learn how long an answer is."""
    sock.sendall(message)
    data = sock.recv(_READ)
    while END not in data:
        more = sock.recv(_READ)
        if not more:
            raise AnswerFailed(f"{url} closed without an answer")
        data += more
    length = int(_head(data)[1].get("content-length", "0"))
    missing = data.find(END) + len(END) + length - len(data)
    while missing > 0:
        missing -= len(sock.recv(_READ))
    return _Reader(length)


def _sleep_until(due: float) -> None:
    left = due - time.perf_counter()
    if left > 0:
        time.sleep(left)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
