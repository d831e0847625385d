"""Starting the process that takes over: as this one was started, for SIGUSR2 or over the socket.

SIGUSR2 is what replaces the running program of nginx, and of HAProxy's master. SIGHUP would not do:
it is also what a terminal sends when it is closed.
"""

import os
import signal
import sys

import structlog
import trio
from pydantic import BaseModel

from overlay.control import ControlConnection
from overlay.errors import MyxoError

WANT = "restart"
"""What `myxo restart` asks for at the control socket."""

TAKEOVER = "MYXO_PROXY_TAKEOVER"
"""The setting `takeover`, in the environment of the new process."""

log = structlog.get_logger()


class NotReplaced(MyxoError):
    """No new process was started; says why."""


class Begun(BaseModel):
    """The answer to `restart`: the process that is to take over, or why there is none."""

    pid: int = 0
    error: str = ""


class Successors:
    """Starts processes that take over from this one, while `run` runs; one at a time.

    Args:
        refusal: why none can; empty if one can.
    """

    def __init__(self, refusal: str = "") -> None:
        self._refusal = refusal
        self._nursery: trio.Nursery | None = None
        self._process: trio.Process | None = None

    async def serve(self, connection: ControlConnection) -> None:
        """Serve the want `restart`."""
        try:
            answer = Begun(pid=await self._begin())
        except NotReplaced as exc:
            answer = Begun(error=str(exc))
        await connection.send(answer)

    async def run(self) -> None:
        """Start one at each SIGUSR2 until cancelled."""
        with trio.open_signal_receiver(signal.SIGUSR2) as signals:
            async with trio.open_nursery() as self._nursery:
                async for _ in signals:
                    try:
                        await self._begin()
                    except NotReplaced as exc:
                        log.warning("proxy.not_replaced", error=str(exc))

    async def _begin(self) -> int:
        """Start a process; return its id.

        Raises:
            NotReplaced: it cannot be started, or this process must not end.
        """
        if self._refusal:
            raise NotReplaced(self._refusal)
        if os.getpid() == 1:
            raise NotReplaced("this is process 1 of its container, which would end with it")
        if self._nursery is None or self._process is not None:
            raise NotReplaced("another process is about to take over")
        try:
            self._process = process = await trio.lowlevel.open_process(
                sys.orig_argv, env=os.environ | {TAKEOVER: "true"}
            )
        except OSError as exc:
            raise NotReplaced(f"{sys.orig_argv[0]} cannot be started: {exc.strerror}") from exc
        log.info("proxy.successor_started", pid=process.pid)
        self._nursery.start_soon(self._watch, process)
        return process.pid

    async def _watch(self, process: trio.Process) -> None:
        """Take note if it ends while this one still serves."""
        code = await process.wait()
        self._process = None
        log.warning("proxy.successor_ended", pid=process.pid, code=code)
