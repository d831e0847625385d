"""A TCP service for the tests, standard library only: it gives bytes back, and says how many.

After its client has ended its direction it says `PID COUNT` and ends its own.
"""

import os
import socketserver


class Talk(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        count = 0
        while data := self.request.recv(65536):
            count += len(data)
            self.request.sendall(data)
        self.request.sendall(b"%d %d" % (os.getpid(), count))


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Talk).serve_forever()
