"""The process between the hosts: reads their TUN devices and writes each packet where it goes.

`python -m bench.netlab.router --listen FD --seed N [--owner FD]` is started by `lab.py`. All that
is decided is decided in `switch.py`; this is one loop around an epoll.

Precision: epoll_wait counts in milliseconds, so the loop sleeps in a select(2) on the epoll itself,
which counts in microseconds, with a timer slack of 1 ns in place of the usual 50 µs. What keeps a
packet back then is the work on others, and the wait for a processor, hence the negative niceness.

A host's lifeline is the other end of its first process's standard input, and is held here for as
long as the host is plugged in: when this process ends, however it ends, every host does.
"""

import argparse
import ctypes
import gc
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bench.netlab.link import PERFECT, Link
from bench.netlab.messages import MAX_FDS, MAX_LINE
from bench.netlab.switch import COUNTERS, Path, Port, Switch

BATCH = 32
"""Packets read from one host before the others get their turn, and what is due is written."""

MAX_PACKET = 65_535
NICENESS = -15
LONGEST_SLEEP_S = 10.0

_SO_SNDBUFFORCE = 32
_PR_SET_TIMERSLACK = 29
_READ = 256 * 1024


class Router:
    """One loop: hosts' packets in and out, and orders in between.

    Attributes:
        latest_s: the most that a packet was handed over after its time, since the start.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._plugs: dict[str, tuple[int, ...]] = {}
        self._tuns: dict[str, int] = {}
        self.stopped = False
        self.latest_s = 0.0

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        """Call `readable` whenever there is something to read, or an end, at `fd`."""
        self._callbacks[fd] = readable
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`."""
        if self._callbacks.pop(fd, None):
            with suppress(OSError):  # a device that is gone has left the epoll by itself
                self._epoll.unregister(fd)

    def plug(self, name: str, addresses: Iterable[str], tun: int, lifelines: Sequence[int]) -> None:
        """Take the host `name`, in place of what was plugged in under this name before."""
        self.unplug(name)
        port = self._switch.add(name, addresses)
        os.set_blocking(tun, False)
        self.watch(tun, lambda: self._read(port, tun))
        self._plugs[name], self._tuns[name] = (tun, *lifelines), tun
        port.plugged = True

    def unplug(self, name: str) -> None:
        """Let go of the host `name`; what is on the way to it is dropped, and it ends."""
        if name not in self._plugs:
            return
        self._switch.ports[name].plugged = False
        self.forget(self._tuns.pop(name))
        for fd in self._plugs.pop(name):
            os.close(fd)

    def run(self) -> None:
        """Hand packets on until `stopped` is set."""
        epoll, switch, monotonic = self._epoll, self._switch, time.monotonic
        while not self.stopped:
            wait = switch.next_departure() - monotonic()
            if wait > 0:
                select.select([epoll], (), (), min(wait, LONGEST_SLEEP_S))
            for fd, _ in epoll.poll(0):
                if callback := self._callbacks.get(fd):
                    callback()
            now = monotonic()
            self.latest_s = max(self.latest_s, now - switch.next_departure())
            self._write(now)

    def _read(self, port: Port, tun: int) -> None:
        read, arrive, monotonic = os.read, self._switch.arrive, time.monotonic
        try:
            for _ in range(BATCH):
                arrive(port, read(tun, MAX_PACKET), monotonic())
        except BlockingIOError:
            pass
        except OSError:  # the device went with its host's namespace
            self.forget(tun)

    def _write(self, now: float) -> None:
        tuns = self._tuns
        for port, packet in self._switch.due(now):
            with suppress(OSError):  # an interface that is down, as after `ip link set down`
                os.write(tuns[port.name], packet)


class Orders:
    """What a router can be told to do; each method is a request of `messages.py`."""

    def __init__(self, router: Router, switch: Switch) -> None:
        self._router = router
        self._switch = switch

    def ports(self, names: Sequence[str], addresses: Sequence[Sequence[str]]) -> None:
        """Add ports, so that links can be set before there are hosts."""
        for name, own in zip(names, addresses, strict=True):
            self._switch.add(name, own)

    def plug(self, name: str, addresses: Sequence[str], fds: Sequence[int] = ()) -> None:
        """Plug a host in: the descriptors are its TUN device and its lifelines."""
        self._router.plug(name, addresses, fds[0], fds[1:])

    def unplug(self, name: str) -> None:
        """Unplug a host, which ends it."""
        self._router.unplug(name)

    def set(self, paths: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
        """Change fields of the links from a port to a port; all or, if one is wrong, none."""
        changed = [
            (a, b, replace(self._switch.ports[a].paths[b].shaper.link, **fields))
            for a, b, fields in paths
        ]
        for source, target, link in changed:
            self._switch.set(source, target, link)

    def cut(self, paths: Sequence[tuple[str, str]], *, cut: bool) -> None:
        """Cut paths, or mend them."""
        for source, target in paths:
            self._switch.cut_path(source, target, cut=cut)

    def cut_ports(self, names: Sequence[str], *, cut: bool) -> None:
        """Cut the cables of hosts, or mend them."""
        for name in names:
            self._switch.cut_port(name, cut=cut)

    def path(self, source: str, target: str) -> dict[str, Any]:
        """Return the link from a port to a port and what became of the packets on it."""
        return _described(source, self._switch.ports[source].paths[target])

    def status(self) -> dict[str, Any]:
        """Return every port and path."""
        return {
            "under_way": self._switch.under_way(),
            "cpu_s": time.process_time(),
            "latest_s": self._router.latest_s,
            "ports": {
                port.name: {"plugged": port.plugged, "cut": port.cut, "unroutable": port.unroutable}
                for port in self._switch.ports.values()
            },
            "paths": [
                _described(port.name, path)
                for port in self._switch.ports.values()
                for path in port.paths.values()
            ],
        }

    def stop(self) -> None:
        """End the router and with it every host."""
        self._router.stopped = True


ORDERS = {name: order for name, order in vars(Orders).items() if not name.startswith("_")}


def _described(source: str, path: Path) -> dict[str, Any]:
    """Return what there is to say of a path; of its link, what is not the default."""
    link = {name: getattr(path.shaper.link, name) for name in Link.__slots__}
    return {
        "from": source,
        "to": path.target.name,
        "link": {name: value for name, value in link.items() if value != getattr(PERFECT, name)},
        "cut": path.shaper.cut,
        "counters": {name: getattr(path, name) for name in COUNTERS},
    }


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
    _be_punctual()
    router.run()


def _be_punctual() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.collect()
    gc.disable()  # the loop makes no cycles


if __name__ == "__main__":
    main()
