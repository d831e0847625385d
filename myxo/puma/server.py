"""The program of a service's instances: it answers GET and POST by the program's function.

It needs Python's library alone, beside what the function imports and what the program says that
its services need. What a function returns is the answer: text, bytes, something that JSON can say,
or one of these with a status, and with header fields after that.
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from myxo.puma.current_request import BadRequest, Request, current, request
from myxo.puma.shipping import FUNCTION, MODULE, Shipped, unpacked

MAX_BODY_BYTES = 16 * 1024 * 1024
READ_TIMEOUT_S = 120.0
"""Without a byte; longer than the proxy keeps a connection that nobody uses."""


Answer = Callable[[], Any]


def main() -> None:
    """Serve at the port that the environment names until told to end."""
    # As the first process of a container it would not be ended by this without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    check_requirements()
    answer = loaded(unpacked(os.environ), os.environ[FUNCTION])
    port = int(os.environ.get("SERVICE_PORT", "8080"))
    server_of(answer, os.environ.get("PUMA_HOST", "127.0.0.1"), port).serve_forever()


def check_requirements() -> None:
    """Return if all is installed that the program says its services need; else end, and say so."""
    if "SERVICE_REQUIRES" in os.environ:
        from myxo.requirements import Lacking, check_environment  # noqa: PLC0415  (needs packaging)

        try:
            check_environment(os.environ)
        except Lacking as exc:
            sys.exit(f"the service cannot run here: {exc}")


def loaded(modules: dict[str, str], function: str) -> Answer:
    """Return the function that answers, of its module, which is compiled here and nowhere else."""
    Shipped(modules).install()
    module = importlib.import_module(MODULE)
    vars(module)["request"] = request  # where PUMA's services find it
    answer: Answer = getattr(module, function)
    return answer


def server_of(answer: Answer, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server that listens; `serve_forever` is the caller's."""
    return _Server((host, port), type("Handler", (_Handler,), {"answer": staticmethod(answer)}))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a flood arrives before the first is accepted


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = READ_TIMEOUT_S
    answer: Answer

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        try:
            status, fields, body = self._answered()
        except BadRequest as exc:
            status, fields, body = _told(HTTPStatus.BAD_REQUEST, str(exc))
        except _TooLarge as exc:
            self.close_connection = True  # its body is still to come
            status, fields, body = _told(exc.status, str(exc))
        except Exception as exc:  # noqa: BLE001  (whatever a user's function raises is one answer)
            traceback.print_exc()
            said = "".join(traceback.format_exception_only(exc)).strip()
            status, fields, body = _told(HTTPStatus.INTERNAL_SERVER_ERROR, said)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answered(self) -> tuple[int, dict[str, str], bytes]:
        data = self._read()
        method = "GET" if self.command == "HEAD" else self.command
        current.set(Request(method, self.path, self.headers, data))
        return rendered(type(self).answer())

    def _read(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise _TooLarge(HTTPStatus.LENGTH_REQUIRED, "a body must say its Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            text = f"a body has at most {MAX_BODY_BYTES} bytes"
            raise _TooLarge(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        return self.rfile.read(int(length))

    def log_message(self, *arguments: object) -> None:
        """Say nothing for each request: the proxy's access log does."""


class _TooLarge(Exception):
    """The body is not read."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def rendered(returned: Any) -> tuple[int, dict[str, str], bytes]:
    """Return status, header fields and body of what a service's function returned.

    Raises:
        TypeError: it returned nothing, or what is no answer.
    """
    status, fields, body = HTTPStatus.OK, dict[str, str](), returned
    match returned:
        case tuple((said, int() as code)):
            body, status = said, HTTPStatus(code)
        case tuple((said, int() as code, {**given})):
            body, status = said, HTTPStatus(code)
            fields = {str(name): str(value) for name, value in given.items()}
        case _:
            pass
    match body:
        case None:
            raise TypeError("the service returned None; it returns text, bytes or what is JSON")
        case bytes():
            kind, data = "application/octet-stream", body
        case str():
            kind, data = "text/html; charset=utf-8", body.encode()
        case _:
            kind, data = "application/json", json.dumps(body).encode() + b"\n"
    named = {name.lower() for name in fields}
    return status, ({} if "content-type" in named else {"Content-Type": kind}) | fields, data


def _told(status: HTTPStatus, text: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "text/plain; charset=utf-8"}, f"{text}\n".encode()


if __name__ == "__main__":
    threading.stack_size(1024 * 1024)  # of 8 MiB a hundred threads count against a memory limit
    main()
