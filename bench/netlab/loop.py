"""The router's loop: reads hosts' TUN devices and writes each packet where and when it goes.

Precision: epoll_wait counts in milliseconds, so the loop sleeps in a select(2) on the epoll itself,
which counts in microseconds, with a timer slack of 1 ns in place of the usual 50 µs. What keeps a
packet back then is the work on others, and the wait for a processor: hence the lowest real-time
priority, which on two processors with four busy processes brings the round trip over a link of
100 ms from 101.2 ± 1.3 ms (at a niceness of -15) to 100.4 ± 0.1. `latest_s` says what remained.
"""

import ctypes
import gc
import os
import select
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from bench.netlab.switch import Port, Switch

BATCH = 32
"""Packets read from one host before the others get their turn, and what is due is written."""

MAX_PACKET = 65_535
LONGEST_SLEEP_S = 10.0

PRIORITY = 1
"""The lowest of the real-time ones."""

_PR_SET_TIMERSLACK = 29


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


def be_punctual() -> None:
    """Give this process what a punctual one needs."""
    with suppress(OSError):  # a container may not have the right to it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.collect()
    gc.disable()  # the loop makes no cycles
