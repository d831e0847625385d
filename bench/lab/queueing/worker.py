"""The program of a worker: a POST of what it is to serve brings the figures of its queue.

It needs Python's library alone, so that any image with Python can run it.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bench.lab.queueing.figures import figures_of
from bench.lab.queueing.services import SERVICES, service_times, stream

MAX_BODY_BYTES = 64 << 20
"""Two million requests of a trace are less."""


class Refused(Exception):
    """What was sent is nothing to serve."""


def answer(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a worker's queue, and where they were computed.

    Args:
        order: `arrivals`, `sizes`, `service`, `mean`, `mean_size`, `customers`, `seed`, `worker`.

    Raises:
        Refused: something lacks, or is not what it has to be.
    """
    try:
        arrivals = [float(arrival) for arrival in order["arrivals"]]
        sizes = [float(size) for size in order["sizes"]]
        draws = stream(int(order["seed"]), int(order["worker"]))
        mean, mean_size = float(order["mean"]), float(order["mean_size"])
        customers = None if order["customers"] is None else int(order["customers"])
        service = order["service"]
    except KeyError as exc:
        raise Refused(f"{exc.args[0]} is missing") from exc
    except (TypeError, ValueError) as exc:
        raise Refused(str(exc)) from exc
    if service not in SERVICES:
        raise Refused(f"service is {service!r}; there is {', '.join(SERVICES)}")
    if len(arrivals) != len(sizes) or arrivals != sorted(arrivals):
        raise Refused("arrivals must ascend, and each needs a size")
    services = service_times(service, mean, mean_size, sizes, draws)
    figures = figures_of(arrivals, services, customers)
    return {"figures": asdict(figures), "requests": len(arrivals), "host": socket.gethostname()}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Serve a share."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._end(400, "the request has no Content-Length that is a number")
        elif int(length) > MAX_BODY_BYTES:
            self._end(413, f"the body has more than {MAX_BODY_BYTES} bytes")
        else:
            self._serve(self.rfile.read(int(length)))

    def do_GET(self) -> None:
        """Say what this is."""
        self._reply(200, {"worker": "POST a share of a trace", "host": socket.gethostname()})

    def _serve(self, body: bytes) -> None:
        try:
            self._reply(200, answer(_object(body)))
        except Refused as exc:
            self._reply(400, {"error": str(exc)})

    def _end(self, status: int, why: str) -> None:
        """Refuse a request whose body is not read, and with it what comes behind."""
        self.close_connection = True
        self._reply(status, {"error": why})

    def _reply(self, status: int, value: Mapping[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as exc:
        raise Refused(f"the body is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise Refused("the body is no JSON object")
    return value


def main() -> None:
    """Serve at the port that the environment names until told to end."""
    host = os.environ.get("QUEUE_WORKER_HOST", "127.0.0.1")
    server = ThreadingHTTPServer((host, int(os.environ["SERVICE_PORT"])), Handler)
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
    )
    server.serve_forever()
    server.server_close()
    sys.exit(0)


if __name__ == "__main__":
    main()
