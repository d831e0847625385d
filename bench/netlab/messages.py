"""What is said to a lab's router over its control socket: JSON lines, each answered by one.

A request has `do` and the arguments of the method of `orders.Orders` that is so named; descriptors
come along as ancillary data. The answer is `{"ok": …}`, or `{"error": "why"}`. Both ends are this
package and run as root, so what is checked is that a mistake is told and not that nobody lies.
"""

import json
import socket
import threading
from pathlib import Path
from typing import Any

from bench.netlab.errors import RouterGone, RouterRefused

MAX_LINE = 16 * 2**20
"""The links of 256 hosts, each written out, take some 8 MiB."""

MAX_FDS = 3
"""A host's TUN device, its lifeline, and that of its home router."""

TIMEOUT_S = 10.0
"""The router answers at once; it may have to wait for a processor."""

_READ = 256 * 1024


class RouterClient:
    """A connection to a router; threads that use it at the same time wait for each other.

    Raises:
        RouterGone: by the constructor, if none listens at `path`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise RouterGone(f"no router answers at {path}: {exc.strerror}") from exc

    def ask(self, do: str, *fds: int, **arguments: Any) -> Any:
        """Have the router do something; return its answer.

        Raises:
            RouterGone: it is not there any more.
            RouterRefused: it says no.
        """
        line = json.dumps({"do": do} | arguments).encode() + b"\n"
        try:
            with self._lock:
                if fds:  # descriptors ride on the first byte
                    socket.send_fds(self._socket, [line[:1]], list(fds))
                    line = line[1:]
                self._socket.sendall(line)
                answer = json.loads(self._receive())
        except OSError as exc:
            raise RouterGone(f"the router at {self._path} is gone: {exc}") from exc
        if "error" in answer:
            raise RouterRefused(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """Close the connection; the router goes on."""
        self._socket.close()

    def _receive(self) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            more = self._socket.recv(_READ)
            if not more:
                raise ConnectionResetError("it closed the connection")
            received += more
        return bytes(received)
