"""Services that speak no HTTP: they give back each line, or each datagram, changed.

python3 lines.py upper|reverse|mark tcp|udp PORT
"""

import os
import socketserver
import sys
from collections.abc import Callable

CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "upper": bytes.upper,
    "reverse": lambda line: line[::-1],
    "mark": lambda line: b"<%b>" % line,
}


class Lines(socketserver.StreamRequestHandler):
    """Serves one TCP connection; ends its direction when the other end has ended its own."""

    change: Callable[[bytes], bytes]

    def handle(self) -> None:
        """Answer line by line."""
        for line in self.rfile:
            self.wfile.write(type(self).change(line.rstrip(b"\n")) + b"\n")


class Datagrams(socketserver.DatagramRequestHandler):
    """Serves one datagram."""

    change: Callable[[bytes], bytes]

    def handle(self) -> None:
        """Answer with one."""
        self.wfile.write(type(self).change(self.rfile.read().rstrip(b"\n")) + b"\n")


class Tcp(socketserver.ThreadingTCPServer):
    """Takes a burst of connections."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Udp(socketserver.UDPServer):
    """Takes the largest datagrams."""

    max_packet_size = 65_507


def main() -> None:
    """Serve until the end."""
    change, protocol, port = sys.argv[1:]
    address = os.environ.get("LISTEN", "127.0.0.1"), int(port)
    server: type[socketserver.BaseServer] = Tcp if protocol == "tcp" else Udp
    handler = Lines if protocol == "tcp" else Datagrams
    serving = type("Serving", (handler,), {"change": staticmethod(CHANGES[change])})
    server(address, serving).serve_forever()


if __name__ == "__main__":
    main()
