"""What the small services of the demos have in common: they answer HTTP, and ask each other.

A service is a function from a request to a reply. Myxo shows in two places only: the port comes as
an argument, and `ask` sends its request to the proxy of the machine that it runs on, which knows
where the other service runs or starts it.
"""

import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

MAX_BODY_BYTES = 64 * 1024
STACK_BYTES = 512 * 1024
"""A thread has 8 MiB otherwise, which counts against MemoryReq where a process is limited."""

CHAIN = "X-Myxo-Chain"
"""The services that a request came through; handed on, so that calls in a circle are noticed."""

ASK_TIMEOUT_S = 60.0
"""Long enough for a service that has to be started first, and for those that it asks in turn."""


class Refused(Exception):
    """The request cannot be answered; the status says whose fault it is, the text what is wrong."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What came: a method, a path without its query, and a body."""

    method: str
    path: str
    body: bytes = b""

    def json(self) -> Any:
        """Return the body as JSON has it."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Reply]

_chain: ContextVar[str] = ContextVar("chain", default="")
"""Of the request that this thread answers."""


def as_json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Reply:
    """Return a reply of JSON."""
    return Reply(json.dumps(value) + "\n", status, "application/json")


def not_found(request: Request, *known: str) -> Refused:
    """Return the refusal of a request for something that there is not."""
    text = f"{request.method} {request.path} is none of: {', '.join(known)}"
    return Refused(HTTPStatus.NOT_FOUND, text)


def here() -> str:
    """Return where this instance runs: the machine's or the container's name, and its port."""
    return f"{socket.gethostname()}:{os.environ.get('SERVICE_PORT', '?')}"


def ask(service: str, path: str, value: Any = None) -> Any:
    """Ask another service through this machine's proxy; return what its JSON says.

    Args:
        service: its name.
        path: in it.
        value: what to POST as JSON; without one it is a GET.
    """
    proxy = f"{os.environ.get('PROXY_IP', '127.0.0.1')}:{os.environ.get('PROXY_PORT', '4200')}"
    body = None if value is None else json.dumps(value).encode()
    headers = {"Content-Type": "application/json"}
    if chain := _chain.get():
        headers[CHAIN] = chain
    url = f"http://{proxy}/{service}{path}"
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S) as reply:  # noqa: S310
            return json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace").strip()
        own = error.code == HTTPStatus.BAD_REQUEST  # what was asked is wrong, not who answers
        status = HTTPStatus.BAD_REQUEST if own else HTTPStatus.BAD_GATEWAY
        raise Refused(status, text if own else f"{service}: {error.code} {text}") from error
    except (OSError, ValueError) as error:
        raise Refused(HTTPStatus.BAD_GATEWAY, f"{service} gave no answer: {error}") from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer: Answer

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        _chain.set(self.headers.get(CHAIN, ""))
        try:
            reply = type(self).answer(self._request())
        except Refused as refused:
            reply = Reply(f"{refused}\n", refused.status)
        body = reply.body.encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _request(self) -> Request:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # its body is still to come
            text = f"a body has at most {MAX_BODY_BYTES} bytes, and says how many"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        method = "GET" if self.command == "HEAD" else self.command
        return Request(method, urlsplit(self.path).path, self.rfile.read(int(length)))

    def log_message(self, *arguments: object) -> None:
        """Say nothing for each request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # a flood arrives before the first is accepted


def serve(answer: Answer) -> None:
    """Answer requests at the PORT and ADDRESS of the command line until SIGTERM."""
    match sys.argv[1:]:
        case [port] if port.isdecimal():
            address = ""
        case [port, address] if port.isdecimal():
            pass
        case _:
            sys.exit(f"usage: {sys.argv[0]} PORT [ADDRESS]")
    threading.stack_size(STACK_BYTES)
    # As the first process of a container it would not be ended by this without a handler.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = _Server((address, int(port)), handler)
    print(f"listening on port {port}", flush=True)
    server.serve_forever()
