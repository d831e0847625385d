"""A service for the tests, standard library only; it also runs where only Python is.

It says what it was asked (any GET), gives bodies back while they come (POST /echo), counts them
(POST /count), and is slow or streams when told to.
"""

import hashlib
import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

GO = threading.Event()
PART = 64 * 1024


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(path.query).items()}
        act = getattr(self, "get_" + path.path.strip("/").replace("/", "_"), self.get_other)
        act()

    do_HEAD = do_GET  # noqa: N815  (named by the base class)

    def do_POST(self) -> None:
        if self.path == "/echo":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in self.body():
                self.chunk(part)
            self.chunk(b"")
            return
        size, digest = 0, hashlib.sha256()
        for part in self.body():
            size += len(part)
            digest.update(part)
        self.answer(json.dumps({"bytes": size, "sha256": digest.hexdigest()}).encode())

    def get_other(self) -> None:
        said = {
            "path": self.path,
            "method": self.command,
            "headers": dict(self.headers.items()),
            "instance": socket.gethostname(),
            "pid": os.getpid(),
            "version": os.environ.get("VERSION", ""),
        }
        self.answer(json.dumps(said).encode())

    def get_env(self) -> None:
        self.answer(json.dumps(dict(os.environ)).encode())

    def get_slow(self) -> None:
        time.sleep(float(self.query["s"]))
        self.get_other()

    def get_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(b"first\n")
        GO.wait(20)
        GO.clear()
        self.chunk(b"last\n")
        self.chunk(b"")

    def get_go(self) -> None:
        GO.set()
        self.answer(b"gone\n")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read1(min(left, PART))
            if not data:
                return
            left -= len(data)
            yield data

    def log_message(self, *args: object) -> None:
        del args


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container
    address = os.environ.get("LISTEN", "0.0.0.0"), int(os.environ["SERVICE_PORT"])
    Server(address, Handler).serve_forever()
