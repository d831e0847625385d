"""The main thread of a worker: it computes for one lane after the other, by turns.

Every map that wants this worker has a lane to it at once, so that a small map does not wait for the
end of a long one. A turn is a chunk, or a part of it where others wait: `turns.py` says how long,
and whose is next. A lane whose items are left for later is told so: if this
process dies meanwhile, they are not to blame.
"""

import os
import secrets
import socket
import threading
import time
from contextlib import suppress

from myxo.mapping.frames import Frame, Kind
from myxo.mapping.interrupts import Drained, Interrupts
from myxo.mapping.turns import Turns
from myxo.mapping.worker_lane import GRACE_S, Function, WorkerLane

REPORT_S = 0.02
"""Between what is sent of a chunk that is being computed."""

MAX_LANES = 128
"""Each has a thread, and at most two chunks of some MiB; who comes after that hears 503."""

TROUBLE_S = 0.1
"""Before the next try to accept, where the system had no descriptor for one."""

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 15\r\n\r\ntoo many lanes\n"
)


class Workbench:
    """Computes for whoever connects.

    Args:
        listener: where callers come in.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.id = secrets.token_hex(8)
        self.interrupts = Interrupts()
        self.functions: dict[bytes, Function] = {}
        self._listener = listener
        self._turns = Turns[WorkerLane]()
        self._lanes: set[WorkerLane] = set()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._in_turn: WorkerLane | None = None
        self._turn_began = 0.0
        self._computing = threading.Event()
        self._ended = threading.Condition(self._lock)

    def run(self) -> None:
        """Return when the process was told to end and has answered what it was at."""
        for task in (self._accept, self._watch):
            threading.Thread(target=task, daemon=True).start()
        with suppress(Drained):
            while not self.interrupts.draining:
                self._news.clear()
                lane = self._begin_turn()
                if lane is None:
                    with self.interrupts.waiting():
                        self._news.wait()
                    continue
                try:
                    lane.step(self._may_go_on)
                finally:
                    self._end_turn(lane)
        self._say_bye()

    # Turns

    def _begin_turn(self) -> WorkerLane | None:
        with self._lock:
            lane = self._turns.next()
            if lane is None:
                return None
            self._in_turn = lane
            self._turn_began = time.monotonic()
            for other in self._turns.waiting:
                if other is not lane:
                    _tell_away(other)
            if lane.away:
                lane.away = False
                lane.send(Frame(Kind.BACK))
        self._computing.set()
        return lane

    def _end_turn(self, lane: WorkerLane) -> None:
        self._computing.clear()
        with self._lock:
            seconds = time.monotonic() - self._turn_began
            self._in_turn = None
            self._turns.used(lane, seconds, more=lane.has_work)
            self._ended.notify_all()

    def _may_go_on(self) -> bool:
        lane = self._in_turn
        if lane is None or self.interrupts.draining:
            return False
        return not self._turns.is_over(lane, time.monotonic() - self._turn_began)

    # What lanes say, each in its own thread

    def changed(self, lane: WorkerLane) -> None:
        """Take in that a lane may have something to compute."""
        with self._lock:
            if lane.has_work:
                self._turns.ready(lane)
            if self._in_turn not in {None, lane}:
                _tell_away(lane)
        self._news.set()

    def left(self, lane: WorkerLane) -> None:
        """Take in that a lane's caller is gone; return when nothing is computed for it."""
        with self._lock:
            self._lanes.discard(lane)
            self._turns.leave(lane)
            if self._in_turn is not lane:
                return
            self.interrupts.interrupt(lane)
            if not self._ended.wait_for(lambda: self._in_turn is not lane, GRACE_S):
                os._exit(1)
            self.interrupts.forget(lane)

    # Threads of its own

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(TROUBLE_S)
                continue
            lane = WorkerLane(connection, self)
            with self._lock:
                full = len(self._lanes) >= MAX_LANES
                if not full:
                    self._lanes.add(lane)
            if full:
                with connection, suppress(OSError):
                    connection.sendall(FULL)
            else:
                threading.Thread(target=self._keep, args=[lane], daemon=True).start()

    def _keep(self, lane: WorkerLane) -> None:
        try:
            lane.run()
        finally:
            with self._lock:
                self._lanes.discard(lane)

    def _watch(self) -> None:
        """Report while something is computed, and tell callers when the process is to end."""
        while True:
            self._computing.wait()
            time.sleep(REPORT_S)
            self._end_if_cut_off()
            lane = self._in_turn
            if lane is not None:
                lane.watch()
            if self.interrupts.draining:
                self._say_bye()

    def _end_if_cut_off(self) -> None:
        """End the process if what it computed has closed its files: nobody would hear of it."""
        try:
            os.fstat(self._listener.fileno())
        except OSError:
            os._exit(1)

    def _say_bye(self) -> None:
        with self._lock:
            lanes = tuple(self._lanes)
        for lane in lanes:
            lane.say_bye()


def _tell_away(lane: WorkerLane) -> None:
    """Say that others are computed for; under the lock, so that what is said is in order."""
    if lane.has_chunks and not lane.away:
        lane.away = True
        lane.send(Frame(Kind.AWAY))
