"""A service for the tests that speaks no HTTP, standard library only: it gives back what it gets.

By TCP it says `PID@HOST.RUN COUNT` after its client has ended its direction, and ends its own. With
the argument `udp` it answers each datagram with `PID@HOST.RUN DATAGRAM`.
"""

import os
import secrets
import socket
import socketserver
import sys

ME = f"{os.getpid()}@{socket.gethostname()}.{secrets.token_hex(4)}".encode()


class Talk(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        count = 0
        while data := self.request.recv(65536):
            count += len(data)
            self.request.sendall(data)
        self.request.sendall(b"%b %d" % (ME, count))


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    allow_reuse_address = True
    daemon_threads = True


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(b"%b %b" % (ME, data), self.client_address)


if __name__ == "__main__":
    address = "127.0.0.1", int(os.environ["SERVICE_PORT"])
    if sys.argv[1:] == ["udp"]:
        socketserver.UDPServer(address, Datagram).serve_forever()
    Server(address, Talk).serve_forever()
