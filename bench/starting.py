"""A command that serves: started as its user does, until it says READY=1, and ended by Ctrl-C."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import NetworkFailed
from overlay.notify import listening

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Started:
    """A command that is ready.

    Attributes:
        process: its own; the first of a session, which all that it starts is in.
        log: the file of what it prints, stdout and stderr as they came.
        ready_s: from its start to its READY=1.
        stop_s: that it has to end.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    ready_s: float
    stop_s: float

    def printed(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="replace")

    def interrupt(self) -> int:
        """Press Ctrl-C, unless it has ended, and return its exit code.

        Raises:
            NetworkFailed: it did not end, and was killed with all that it had started.
        """
        return _interrupted(self.process, self.stop_s)


@contextmanager
def started(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    cwd: Path = CHECKOUT,
    ready_timeout_s: float = READY_TIMEOUT_S,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> Iterator[Started]:
    """Run a command for the length of a block, which begins when it is ready.

    Args:
        command: program and arguments.
        log: the file for what it prints; its socket is beside it.
        environment: all that it sees, less where it says that it is ready.
        cwd: the folder that it is started in.
        ready_timeout_s: within which it must be ready.
        stop_timeout_s: within which it must end.

    Raises:
        NetworkFailed: it did not get ready, or did not end; says what it printed.
    """
    with listening(log.with_suffix(".ready")) as ready, log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            env={**environment, **ready.environment},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if not ready.wait(process, ready_timeout_s):
                said = log.read_text(errors="replace")
                raise NetworkFailed(f"{_named(process)} did not get ready:\n{said}")
            yield Started(process, log, time.perf_counter() - began, stop_timeout_s)
        finally:
            _interrupted(process, stop_timeout_s)


def _interrupted(process: "subprocess.Popen[bytes]", stop_s: float) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(stop_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NetworkFailed(f"{_named(process)} did not end within {stop_s:g} s") from None


def _named(process: "subprocess.Popen[bytes]") -> str:
    words = process.args
    assert isinstance(words, list)  # noqa: S101  (for the type checker: it is what was given)
    return f"`{' '.join(map(str, words))}`"
