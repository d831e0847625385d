"""Processes that are known by number and start time, because numbers are used again."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

_STATE, _START_TIME = 0, 19
"""Positions in /proc/PID/stat behind the name, proc(5)."""


class Process(Protocol):
    """One that was started here, such as a subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; subprocess.TimeoutExpired if that takes more seconds than these."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless it has ended."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


def run_to_end(
    start: Callable[[IO[bytes], IO[bytes]], Process], timeout_s: float
) -> tuple[int, str, str]:
    """Return a process's exit code, and what it wrote on standard output and standard error.

    Args:
        start: starts it, with these as the two.
        timeout_s: after which it is killed.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        process = start(output, error)
        try:
            code = process.wait(timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return code, _text_of(output), _text_of(error)


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this machine.

    Attributes:
        started: in the kernel's ticks since boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """Return the process that has the number `pid` now."""
        return cls(pid, _started(pid))

    @property
    def alive(self) -> bool:
        """Whether it runs still; one that only waits to be reaped does not."""
        return self.started != 0 and _started(self.pid) == self.started


def children(pid: int) -> list[int]:
    """Return the numbers of the children of the process `pid`; none if it has ended."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _started(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[_STATE] in "ZX" else int(fields[_START_TIME])
