"""An HTTP server for the tests, standard library only, that shows each request as it came.

The body of an answer is the request's head. What asks for an upgrade gets it, and from then on its
bytes back, then how many there were. `/hostile` is answered by what no server should send,
and `/hints` at first by a 103.
"""

import os
import socketserver

HOSTILE = {
    b"lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"both": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
    b"split": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    b"folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    b"second": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    b"switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"noise": b"220 smtp ready\r\n\r\n",
}


class Shows(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while head := self.head():
            target = head.split(b" ")[1]
            if target.startswith(b"/hostile/"):
                self.wfile.write(HOSTILE[target.rpartition(b"/")[2]])
            elif b"\r\nupgrade:" in head.lower():
                self.switch()
                return
            else:
                if target.startswith(b"/hints"):
                    self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head))
                self.wfile.write(b"" if head.startswith(b"HEAD ") else head)

    def head(self) -> bytes:
        lines = b""
        while line := self.rfile.readline():
            lines += line
            if line == b"\r\n":
                break
        return lines

    def switch(self) -> None:
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        count = 0
        while data := self.request.recv(65536):
            count += len(data)
            self.request.sendall(data)
        self.request.sendall(b"%d" % count)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 64
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Shows).serve_forever()
