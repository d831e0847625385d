"""A service on a real HTTP server, for tests: it answers where a proxy would for it."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 60.0

Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]] | None
"""Status, body and fields; None ends the connection without an answer."""


class Asked:
    """A request as it came.

    Attributes:
        seen: how often one with this body has come, this one with it.
    """

    def __init__(self, handler: BaseHTTPRequestHandler, body: bytes, seen: int) -> None:
        self.method = handler.command
        self.path = handler.path
        self.headers = handler.headers
        self.body = body
        self.seen = seen
        self._connection = handler.connection

    @property
    def value(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def wait_until_gone(self) -> None:
        """Return when the client has left."""
        self._connection.settimeout(PATIENCE_S)
        with suppress(ConnectionError):
            self._connection.recv(1)


class Service:
    """Answers as a test says.

    Attributes:
        address: where it listens.
        answer: makes the answer to a request; what came, unless it is set.
        requests: that have come.
        connections: on which.
        peak: the most that were under way at once.
    """

    def __init__(self) -> None:
        self.address = ""
        self.answer: Callable[[Asked], Reply] = lambda asked: (200, asked.body)
        self.requests = self.peak = self.connections = 0
        self._under_way = 0
        self._seen: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def take(self, handler: BaseHTTPRequestHandler) -> Reply:
        """Return the answer to a request."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        if len(body) < length:  # the client has left
            return None
        with self._lock:
            self.requests += 1
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            self._seen[body] += 1
            asked = Asked(handler, body, self._seen[body])
        try:
            return self.answer(asked)
        finally:
            with self._lock:
                self._under_way -= 1


@contextmanager
def serving() -> Iterator[Service]:
    """For the block, have a service on a port of its own."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            service.connections += 1

        def _reply(self) -> None:
            reply = service.take(self)
            if reply is None:
                self.close_connection = True
                return
            status, body, *fields = reply
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **dict(*fields)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _reply  # noqa: N815  (http.server's names)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024  # a map opens many connections at once

        def handle_error(self, *of: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # else the client has left
                super().handle_error(*of)

    server = Server(("127.0.0.1", 0), Handler)
    service.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
