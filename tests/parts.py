"""All tests in runs beside each other, forked from one process that has collected them.

To collect means to import every test and all that it tests: a minute of computing where nothing is
compiled yet, which the runs would otherwise do each for itself.
"""

import os
import random
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

import pytest
from _pytest.capture import CaptureManager


def fork(config: pytest.Config, names: Sequence[str]) -> str:
    """Return one of `names` in each of as many processes, in this one the first.

    This one ends when all have ended: it shows their output after its own, and what failed in one
    of them failed in this one, too.
    """
    first, *others = names
    beside = _Beside()
    sys.stdout.flush()
    sys.stderr.flush()
    for name in others:
        output = tempfile.TemporaryFile()  # noqa: SIM115  (closed once it is read)
        pid = os.fork()
        if pid == 0:
            random.seed()
            _write_to(output, config)
            beside.forget()
            return name
        beside.add(pid, output)
    config.pluginmanager.register(beside)
    return first


def _write_to(output: IO[bytes], config: pytest.Config) -> None:
    """Have this process's standard streams go there, also while no test's output is captured."""
    capture = config.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    capture.stop_global_capturing()
    with output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    capture.start_global_capturing()
    capture.suspend_global_capture()


class _Beside:
    """The runs in other processes, and what they write."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, IO[bytes]]] = []
        self._session: pytest.Session | None = None

    def add(self, pid: int, output: IO[bytes]) -> None:
        self._runs.append((pid, output))

    def forget(self) -> None:
        while self._runs:
            self._runs.pop()[1].close()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep whose exit code the others' failures change."""
        self._session = session

    def pytest_unconfigure(self) -> None:
        """Wait for the others; this run's own summary has been written."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in self._runs]
        for _, output in self._runs:
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
        self.forget()
        if self._session is not None and any(codes):
            self._session.exitstatus = next(code for code in codes if code)
