"""A service whose instances differ: the first of them misbehaves where it is asked to.

Instances number themselves in $FOLDER. Instance 0 fails at /flaky and hangs at /hang; every
instance fails its health check while there is a file sick-NUMBER.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

FOLDER = Path(os.environ["FOLDER"])


def own_number() -> int:
    """Return the first number that no other instance has."""
    for number in count():
        try:
            (FOLDER / f"instance-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError


NUMBER = own_number()


class Moods(BaseHTTPRequestHandler):
    """Answers with the instance's number, if it does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Behave as the path says."""
        target = urlsplit(self.path)
        status = 200
        match target.path:
            case "/flaky" if NUMBER == 0:
                status = 500
            case "/hang" if NUMBER == 0:
                time.sleep(60)
            case "/wait":
                time.sleep(float(target.query))
            case "/health" if (FOLDER / f"sick-{NUMBER}").exists():
                status = 503
        said = {"number": NUMBER, "pid": os.getpid(), "headers": dict(self.headers.items())}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base's name)
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Moods).serve_forever()
