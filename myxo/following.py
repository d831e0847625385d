"""A process that trio did not start, followed by a descriptor: a child of this one, or nobody's."""

import os
import signal
from contextlib import suppress

import trio


class Followed:
    """A process, for the part of trio.Process that a supervisor needs.

    Attributes:
        pid: its number, which another process may have once this one has ended.
        returncode: None while it runs. Only its parent is told how a process ended: as
            subprocess has it if this process is that parent, 0 if not.
    """

    def __init__(self, pid: int, *, is_child: bool) -> None:
        """Follow the process `pid`.

        Raises:
            ProcessLookupError: it has ended, and whoever started it knows.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._is_child = is_child
        self._descriptor = os.pidfd_open(pid)
        self._waiting = trio.Lock()

    def send_signal(self, number: int) -> None:
        """Send a signal, to this process and to none that has its number later."""
        if self.returncode is not None:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end; return `returncode`."""
        async with self._waiting:  # one task at a time may wait for a descriptor
            if self.returncode is None:
                await trio.lowlevel.wait_readable(self._descriptor)
                self.returncode = self._how_it_ended()
                os.close(self._descriptor)
                self._descriptor = -1
        return self.returncode

    def _how_it_ended(self) -> int:
        if not self._is_child:
            return 0
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)
