"""Readiness, said the way systemd hears it (sd_notify(3)), and heard by who starts a daemon."""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

READY = b"READY=1"
STATUS = b"STATUS="
MAX_MESSAGE_BYTES = 4096
_MAX_STATUS = 1000


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`, to whoever started this process, if it listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(state.encode())
        except OSError:
            return


def notify_status(text: str) -> None:
    """Send how this process is, in words, which are made one line of at most 1000 characters."""
    notify(STATUS.decode() + " ".join(text.split())[:_MAX_STATUS])


class Started(Protocol):
    """A process, such as a subprocess.Popen."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""


class ReadyListener:
    """Hears a process that is about to be started say READY=1; made by `listening`.

    For programs without trio: scripts, benchmarks and tests. `myxo up` listens in its own way.
    """

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._sock = sock
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def wait(self, process: Started, timeout_s: float) -> bool:
        """Return whether `process` is ready: False once it has ended, or `timeout_s` are over."""
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and (left := deadline - time.monotonic()) > 0:
            end = os.pidfd_open(process.pid)
            try:
                heard, _, _ = select.select([self._sock.fileno(), end], [], [], left)
            finally:
                os.close(end)
            if self._sock.fileno() in heard and READY in self._sock.recv(MAX_MESSAGE_BYTES):
                return True
        return False


@contextmanager
def listening(path: Path) -> Iterator[ReadyListener]:
    """Yield what hears the process that is given its environment; `path` is its socket's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.bind(str(path))
        try:
            yield ReadyListener(sock, path)
        finally:
            path.unlink(missing_ok=True)
