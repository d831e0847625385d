"""Runs a machine's daemons as processes of their own, restarts what ends, and stops all together.

A process each, because a fault in one daemon must not take another down. A child says that it is
ready the way systemd services do, by `READY=1` on a socket of its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from overlay.cli import SUPERVISED
from overlay.errors import MyxoError
from overlay.notify import READY

READY_TIMEOUT_S = 60.0
"""A first start compiles byte code and creates networks in the engine."""

STOP_TIMEOUT_S = 4.0
"""Below the 5 seconds that a person is promised after Ctrl-C."""

RESTARTS = 5
RESTART_WINDOW_S = 60.0
"""A daemon that ends more often than RESTARTS in this time will not get better by itself."""

RESTART_DELAY_S = 0.5

log = structlog.get_logger()


class DaemonFailed(MyxoError):
    """A daemon ended before it was ready, or ends again and again; its own words stand above."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon to run.

    Attributes:
        name: the command, a sub-command of `myxo`.
        arguments: its flags.
        environment: added to this process's; holds what must not be seen in a process list.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Keeps daemons running while its block is open; made by `supervised`."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self._nursery = nursery
        self._folder = folder
        self._processes: dict[str, trio.Process] = {}
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
        for process in reversed(list(self._processes.values())):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            for process in list(self._processes.values()):
                await process.wait()
        for process in list(self._processes.values()):
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _keep(
        self, daemon: Daemon, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        ends: list[float] = []
        while not self._stopping:
            process = await self._spawn_ready(daemon, first=not ends)
            if not ends:
                task_status.started()
            code = await process.wait()
            if process.stdin is not None:
                await process.stdin.aclose()
            now = trio.current_time()
            ends = [t for t in ends if t > now - RESTART_WINDOW_S] + [now]
            if self._stopping:
                return
            log.warning("daemon.ended", daemon=daemon.name, code=code, restarts=len(ends))
            if len(ends) > RESTARTS:
                raise DaemonFailed(f"{daemon.name} ended {len(ends)} times within a minute")
            await trio.sleep(RESTART_DELAY_S)

    async def _spawn_ready(self, daemon: Daemon, *, first: bool) -> trio.Process:
        path = self._folder / f"{daemon.name}.ready"
        path.unlink(missing_ok=True)
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(str(path))
            process = await self._spawn(daemon, path)
            try:
                ready = await _said_ready(sock, process)
            finally:
                path.unlink(missing_ok=True)
        if not ready and first:
            raise DaemonFailed(f"{daemon.name} did not start")
        return process

    async def _spawn(self, daemon: Daemon, ready: Path) -> trio.Process:
        environment = {
            **os.environ,
            **daemon.environment,
            "NOTIFY_SOCKET": str(ready),
            SUPERVISED: "1",
        }
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "myxo", daemon.name, *daemon.arguments],
            env=environment,
            stdin=subprocess.PIPE,  # held open: its end tells the daemon that this process ended
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._processes[daemon.name] = process
        if self._stopping:  # it was started while the others were stopped
            process.kill()
        return process


@asynccontextmanager
async def supervised() -> AsyncIterator[Supervisor]:
    """Yield a supervisor; at the block's end every daemon has ended.

    The readiness sockets are in a folder for temporary files, as a socket's path is short, and that
    of a state directory may not be.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-") as folder:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(nursery, Path(folder))
            try:
                yield supervisor
            finally:
                with trio.CancelScope(shield=True):
                    await supervisor.stop()
                nursery.cancel_scope.cancel()


async def _said_ready(sock: trio.socket.SocketType, process: trio.Process) -> bool:
    """Wait for the daemon's word, or for its end, whichever comes first."""
    said = False
    with trio.move_on_after(READY_TIMEOUT_S):
        async with trio.open_nursery() as nursery:

            async def watch_end() -> None:
                await process.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_end)
            while READY not in await sock.recv(4096):
                continue
            said = True
            nursery.cancel_scope.cancel()
    return said
