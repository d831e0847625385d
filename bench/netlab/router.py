"""The process between the hosts, `python -m bench.netlab.router --listen FD --seed N [--owned]`.

It is started by `lab.py`. Which packet goes where and when is decided in `switch.py`; `loop.py`
hands them on; here are the connections over which it is told what to do.

A host's lifeline is the other end of its first process's standard input, and is held here for as
long as the host is plugged in: when this process ends, however it ends, every host does.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from bench.netlab.loop import Router, be_punctual
from bench.netlab.messages import MAX_FDS, MAX_LINE
from bench.netlab.orders import ORDERS, Orders
from bench.netlab.switch import Switch

_SO_SNDBUFFORCE = 32
_READ = 256 * 1024


class Caller:
    """A connection over which orders come; it is closed when it sends what is no request."""

    def __init__(self, connection: socket.socket, router: Router, orders: Orders) -> None:
        self._connection, self._router, self._orders = connection, router, orders
        self._received = bytearray()
        self._fds: list[int] = []
        connection.setblocking(False)
        # An answer must fit whole: the loop waits for no reader.
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, MAX_LINE)
        router.watch(connection.fileno(), self.readable)

    def readable(self) -> None:
        """Take what has come and answer each whole line."""
        try:
            data, fds, _, _ = socket.recv_fds(self._connection, _READ, MAX_FDS)
        except OSError:
            data, fds = b"", []
        self._fds += fds
        self._received += data
        if not data or len(self._received) > MAX_LINE:
            self.close()
            return
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        try:
            for line in lines:
                self._connection.sendall(json.dumps(self._answer(bytes(line))).encode() + b"\n")
        except OSError:
            self.close()

    def close(self) -> None:
        """Forget the connection and the descriptors that came over it for nothing."""
        self._router.forget(self._connection.fileno())
        self._connection.close()
        _close(self._fds)

    def _answer(self, line: bytes) -> dict[str, Any]:
        fds, self._fds = self._fds, []
        try:
            request = json.loads(line)
            order = ORDERS[request.pop("do")]
            return {"ok": order(self._orders, **request, **({"fds": fds} if fds else {}))}
        except KeyError as exc:
            reason = f"there is no {exc}"
        except (AttributeError, TypeError, ValueError, OSError) as exc:
            reason = str(exc)
        _close(fds)
        return {"error": reason}


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def main() -> None:
    """Route until told to stop, or until the owner's end of standard input is closed."""
    parser = argparse.ArgumentParser(prog="python -m bench.netlab.router")
    parser.add_argument("--listen", type=int, required=True, help="a listening Unix socket")
    parser.add_argument("--seed", type=int, required=True, help="of jitter and loss")
    parser.add_argument("--owned", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    switch = Switch(options.seed)
    router = Router(switch)
    orders = Orders(router, switch)
    listener = socket.socket(fileno=options.listen)
    listener.setblocking(False)

    def accept() -> None:
        with suppress(OSError):  # who wanted to connect has gone again
            Caller(listener.accept()[0], router, orders)

    def owner_gone() -> None:
        router.stopped = True

    router.watch(options.listen, accept)
    if options.owned:
        router.watch(sys.stdin.fileno(), owner_gone)
    be_punctual()
    router.run()


if __name__ == "__main__":
    main()
