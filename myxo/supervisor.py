"""Runs a machine's daemons as processes of their own, restarts what ends, and stops all together.

A process each, because a fault in one daemon must not take another down. A child says that it is
ready the way systemd services do, by `READY=1` on a socket of its own, and by `MAINPID=` that
another process has taken its place, which is looked after from then on.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from myxo.daemons import Daemon
from myxo.following import Followed
from myxo.forking import Forked
from overlay.cli import SUPERVISED
from overlay.errors import MyxoError
from overlay.notify import MAX_MESSAGE_BYTES, READY, STATUS

READY_TIMEOUT_S = 60.0
"""A first start compiles byte code and creates networks in the engine."""

STOP_TIMEOUT_S = 4.0
"""Below the 5 seconds that a person is promised after Ctrl-C."""

RESTARTS = 5
RESTART_WINDOW_S = 60.0
"""A daemon that ends more often than RESTARTS in this time will not get better by itself."""

RESTART_DELAY_S = 0.5

_MAIN_PID = re.compile(rb"^MAINPID=(\d{1,9})$", re.MULTILINE)
"""What a daemon says when another process has taken its place (sd_notify(3))."""

log = structlog.get_logger()


class DaemonFailed(MyxoError):
    """A daemon ended before it was ready, with its last words, or ends again and again."""


class Supervisor:
    """Keeps daemons running while its block is open; made by `supervised`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        folder: Path,
        stop_timeout_s: float,
        forked: Sequence[Forked] = (),
    ) -> None:
        self._nursery = nursery
        self._stop_timeout_s = stop_timeout_s
        self._folder = folder
        self._forked = {child.daemon.name: child for child in forked}
        self._processes: dict[str, trio.Process | Followed] = {}
        self._replaced: list[trio.Process | Followed] = []
        self._stopping = False

    async def start(self, daemons: Sequence[Daemon]) -> None:
        """Start `daemons` together and return when all are ready.

        Raises:
            DaemonFailed: one ended, or was not ready within `READY_TIMEOUT_S`.
        """
        async with trio.open_nursery() as starting:
            for daemon in daemons:
                starting.start_soon(self._nursery.start, self._keep, daemon)

    async def stop(self) -> None:
        """End all daemons, the last started first; what does not end in time is killed."""
        self._stopping = True
        every = [*self._replaced, *self._processes.values()]
        for process in reversed(every):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        with trio.move_on_after(self._stop_timeout_s):
            for process in every:
                await process.wait()
        for process in every:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _keep(
        self, daemon: Daemon, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        ends: list[float] = []
        path = self._folder / f"{daemon.name}.ready"
        while not self._stopping:
            with _hearing_at(path) as sock:
                process = await self._spawn(daemon, path)
                start = await _heard_start(sock, process)
                if not start.ready and not ends:
                    raise DaemonFailed(f"{daemon.name} did not start{start.reason}")
                if not ends:
                    task_status.started()
                code = await self._last_end(daemon.name, process, sock)
            if isinstance(process, Forked):
                process.leave()
            elif process.stdin is not None:
                await process.stdin.aclose()
            now = trio.current_time()
            ends = [t for t in ends if t > now - RESTART_WINDOW_S] + [now]
            if self._stopping:
                return
            log.warning("daemon.ended", daemon=daemon.name, code=code, restarts=len(ends))
            if len(ends) > RESTARTS:
                raise DaemonFailed(f"{daemon.name} ended {len(ends)} times within a minute")
            await trio.sleep(RESTART_DELAY_S)

    async def _last_end(
        self, name: str, process: trio.Process | Followed, sock: socket.socket
    ) -> int | None:
        """Wait until a daemon has ended, and whoever took its place; return that one's exit code.

        The code of a process that this one did not start is not known.
        """
        last: trio.Process | Followed = process
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_of_successors, name, sock)
            await last.wait()
            self._take_successor(name, sock)
            while (current := self._processes[name]) is not last:
                last = current
                await last.wait()
                self._take_successor(name, sock)
            nursery.cancel_scope.cancel()
        return last.returncode

    async def _hear_of_successors(self, name: str, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            self._take_successor(name, sock)

    def _take_successor(self, name: str, sock: socket.socket) -> None:
        """Take note of the process that a daemon says is in its place, if it has said so."""
        with suppress(BlockingIOError):
            while True:
                said = _MAIN_PID.search(sock.recv(MAX_MESSAGE_BYTES))
                successor = None if said is None else _successor(int(said[1]))
                if successor is not None:
                    log.info("daemon.replaced", daemon=name, by=successor.pid)
                    self._replaced.append(self._processes[name])
                    self._processes[name] = successor

    async def _spawn(self, daemon: Daemon, ready: Path) -> trio.Process | Forked:
        """Start `daemon`: the first time as the child that waits for it, if there is one."""
        own = {**daemon.environment, "NOTIFY_SOCKET": str(ready), SUPERVISED: "1"}
        process: trio.Process | Forked
        forked = self._forked.pop(daemon.name, None)
        if forked is not None and forked.go(own):
            process = forked
        else:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "myxo", daemon.name, *daemon.arguments],
                env=os.environ | own,
                stdin=subprocess.PIPE,  # held open: its end tells the daemon that this one ended
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes[daemon.name] = process
        if self._stopping:  # it was started while the others were stopped
            process.kill()
        return process


@asynccontextmanager
async def supervised(
    stop_timeout_s: float = STOP_TIMEOUT_S, forked: Sequence[Forked] = ()
) -> AsyncIterator[Supervisor]:
    """Yield a supervisor; at the block's end every daemon has ended.

    Args:
        stop_timeout_s: seconds after which a daemon that does not end is killed.
        forked: children that wait to be daemons, by whose names they are chosen.

    The readiness sockets are in a folder for temporary files, as a socket's path is short, and that
    of a state directory may not be.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-") as folder:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery, Path(folder), stop_timeout_s, forked)
            try:
                yield supervisor
            finally:
                with trio.CancelScope(shield=True):
                    await supervisor.stop()
                nursery.cancel_scope.cancel()


def _successor(pid: int) -> Followed | None:
    try:
        return Followed(pid, is_child=False)
    except OSError:  # it has ended already
        return None


@contextmanager
def _hearing_at(path: Path) -> Iterator[socket.socket]:
    """Yield a socket on which a daemon says how it is, as sd_notify(3) has it."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.bind(str(path))
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Start:
    """What a daemon has said since it was started."""

    ready: bool = False
    status: str = ""

    @property
    def reason(self) -> str:
        """Return its last words behind a colon; empty if it had none."""
        return f": {self.status}" if self.status else ""

    def hear(self, sock: socket.socket) -> None:
        """Take in what has come by now, up to its being ready: the rest is for who listens then."""
        with suppress(BlockingIOError):
            while not self.ready:
                for line in sock.recv(MAX_MESSAGE_BYTES).splitlines():
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if line == READY:
            self.ready = True
        elif line.startswith(STATUS):
            self.status = line.removeprefix(STATUS).decode(errors="replace")


async def _heard_start(sock: socket.socket, process: trio.Process | Followed) -> _Start:
    """Wait until a daemon is ready or has ended, whichever comes first, and at most so long."""
    start = _Start()
    with trio.move_on_after(READY_TIMEOUT_S) as waiting:
        async with trio.open_nursery() as nursery:

            async def watch_end() -> None:
                await process.wait()
                start.hear(sock)  # what it said just before
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_end)
            while not start.ready:
                await trio.lowlevel.wait_readable(sock)
                start.hear(sock)
            nursery.cancel_scope.cancel()
    if waiting.cancelled_caught:
        start.status = f"it was not ready within {READY_TIMEOUT_S:g} s"
    return start
