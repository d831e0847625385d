"""Servers that have nothing to do with Myxo, for routes to lead to."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast


class Target(BaseHTTPRequestHandler):
    """Answers with the port that it listens at."""

    @property
    def port(self) -> int:
        """Where its server listens."""
        return cast("ThreadingHTTPServer", self.server).server_port

    def text(self) -> str:
        """Return the body of its answers."""
        return str(self.port)

    def do_GET(self) -> None:
        body = self.text().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def two_targets(kind: type[Target]) -> Iterator[list[str]]:
    """Run two of them for the length of a block; yield where, as `host:port`."""
    with ExitStack() as stack:
        found: list[str] = []
        for _ in range(2):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), kind))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            found.append(f"127.0.0.1:{server.server_port}")
        yield found
