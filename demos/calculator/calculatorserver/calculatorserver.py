#!/usr/bin/env python3
"""Does sums over HTTP: /add /sub /mul /div with ?num1=…&num2=… on whole numbers.

Usage: calculatorserver.py PORT
"""

import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OPERATIONS = {
    "/add": lambda a, b: a + b,
    "/sub": lambda a, b: a - b,
    "/mul": lambda a, b: a * b,
    "/div": lambda a, b: a // b,
}
MAX_DIGITS = 1000  # keeps the time for one product small


def answer(target: str) -> tuple[HTTPStatus, str]:
    """Return status and text for a request's path and query."""
    url = urlsplit(target)
    operation = OPERATIONS.get(url.path)
    if operation is None:
        return HTTPStatus.NOT_FOUND, f"{url.path} is none of {' '.join(OPERATIONS)}"
    query = parse_qs(url.query)
    numbers = []
    for name in ("num1", "num2"):
        text = query.get(name, [""])[0]
        if len(text) > MAX_DIGITS or not text.removeprefix("-").isdecimal():
            return HTTPStatus.BAD_REQUEST, f"{name} must be a whole number, not {text[:40]!r}"
        numbers.append(int(text))
    try:
        return HTTPStatus.OK, str(operation(*numbers))
    except ZeroDivisionError:
        return HTTPStatus.BAD_REQUEST, "num2 is 0, and nothing can be divided by it"


class Calculator(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        status, text = answer(self.path)
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing for each request."""


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("usage: calculatorserver.py PORT")
    # As the first process of a container it would not be ended by this without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", int(sys.argv[1])), Calculator).serve_forever()


if __name__ == "__main__":
    main()
