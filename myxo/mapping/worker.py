"""The program of a map's worker: it computes chunks for its callers by turns.

It needs Python's library and cloudpickle alone, so that any image with these can run it. The first
process holds the port and starts the one that computes; when a function takes that one down, the
next is there at once, and whoever was on its lane sees the connection end.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType

from myxo.mapping.inside import IN_WORKER
from myxo.mapping.workbench import Workbench

BACKLOG = 128
RESTART_S = 0.05
"""Between the end of a process that computed for less than `STABLE_S` and the start of the next."""

STABLE_S = 1.0
DRAINED = 0

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
HELD_BYTES, HELD_BLOCK_BYTES = 64 << 20, 32 << 20
"""Of freed memory a process holds so much for what it computes next, and of a single block. glibc
goes up to there by itself when it sees such blocks freed (mallopt(3))."""


def main() -> None:
    """Serve at the port that the environment names until told to end."""
    port = int(os.environ.get("SERVICE_PORT", "8080"))
    host = os.environ.get("MYXO_WORKER_HOST", "127.0.0.1")
    # Imported once, before the fork: each further process has it from the beginning.
    import cloudpickle  # noqa: F401, PLC0415

    hold_freed_memory()
    os.environ[IN_WORKER] = "1"
    listener = socket.create_server((host, port), backlog=BACKLOG)
    Supervisor(listener).run()


def hold_freed_memory() -> None:
    """Have freed memory be used again, also by the processes that are forked; glibc's alone.

    Else each chunk's lists and pickles lie in new pages, and to have the system empty these takes
    a tenth of the time of items that cost nothing.
    """
    with suppress(ImportError, OSError, AttributeError):  # a Python or a library without it
        import ctypes  # noqa: PLC0415

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, HELD_BYTES)
        mallopt(M_MMAP_THRESHOLD, HELD_BLOCK_BYTES)


class Supervisor:
    """Keeps one process that computes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._child: int | None = None
        self._ending = False

    def run(self) -> None:
        """Return when it was told to end and its process has."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        while not self._ending:
            began = time.monotonic()
            self._child = self._start()
            if self._ending:  # told between the check and the start
                os.kill(self._child, signal.SIGTERM)
            _, status = os.waitpid(self._child, 0)
            self._child = None
            if os.waitstatus_to_exitcode(status) != DRAINED and not self._ending:
                sys.stderr.write(f"worker: a process ended with {_described(status)}\n")
                if time.monotonic() - began < STABLE_S:
                    time.sleep(RESTART_S)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True
        if self._child is not None:
            os.kill(self._child, signal.SIGTERM)

    def _start(self) -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            Workbench(self._listener).run()
            status = DRAINED
        finally:
            os._exit(status)


def _described(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    main()
