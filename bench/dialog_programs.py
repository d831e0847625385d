"""The two programs of `demos/dialog` as their users start them, on ports of their own."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.client import ask_until_ok
from bench.errors import HopMissing, NetworkFailed
from bench.network import environment
from bench.puma_program import PumaProgram, puma_program
from bench.starting import CHECKOUT
from overlay.testing_ports import free_port

FOLDER = CHECKOUT / "demos" / "dialog"
PATHS = {"page": "/", "agent": "/agent?chatText=I+loved+Alien", "films": "/films"}
"""What each service is asked for."""

KILLED = "agent"
"""The service an instance of which is killed: the one that has most to do, and to begin with."""

RESTART_S = 0.1
"""From the end of the monolith to its next start, as systemd has it (RestartSec)."""

_SERVER = b"myxo.puma.server"


class Program(Protocol):
    """A program that runs."""

    @property
    def urls(self) -> dict[str, str]:
        """Of its services, by their names."""
        ...

    def kill(self) -> None:
        """Kill an instance of it, as a lack of memory would."""
        ...


class Monolith:
    """The program for Flask, by Flask's own server; it is its only instance.

    Args:
        folder: for what it says.
    """

    def __init__(self, folder: Path) -> None:
        self._log, self._port = folder / "monolith.log", free_port()
        self._process = self._started()

    @property
    def urls(self) -> dict[str, str]:
        """Of its services, by their names."""
        return _urls(self._port)

    @property
    def pid(self) -> int:
        """Its process, until it is killed."""
        return self._process.pid

    def kill(self) -> None:
        """Kill it, and start it again as a supervisor does; return when it has begun to start."""
        self.end()
        time.sleep(RESTART_S)
        self._process = self._started()

    def end(self) -> None:
        """Kill it for good."""
        self._process.kill()
        self._process.wait()

    def _started(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "flask", "--app", "monolith", "--no-debug", "run"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--port", str(self._port)],
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@dataclass(frozen=True, slots=True)
class Port:
    """The program for `myxo.puma`, whose services are processes in a network of its own."""

    program: PumaProgram

    @property
    def urls(self) -> dict[str, str]:
        """Of its services, by their names."""
        return _urls(self.program.port)

    def kill(self) -> None:
        """Kill an instance of `KILLED`.

        Raises:
            NetworkFailed: there is none.
        """
        os.kill(instances(self.program.started.process.pid, KILLED)[0], signal.SIGKILL)


@contextmanager
def monolith(folder: Path) -> Iterator[Program]:
    """Run the monolith for the length of a block, which begins when all its services answer.

    Raises:
        HopMissing: Flask or numpy is not installed.
        AnswerFailed: it does not answer.
    """
    _check_installed()
    program = Monolith(folder)
    try:
        await_all(program)
        yield program
    finally:
        program.end()


@contextmanager
def ported(folder: Path) -> Iterator[Program]:
    """Run the port for the length of a block, which begins when all its services answer.

    Raises:
        HopMissing: numpy is not installed.
        NetworkFailed: it did not get ready, or did not end.
        AnswerFailed: it does not answer.
    """
    _check_installed()
    with puma_program(FOLDER / "ported.py", environment(folder), folder) as program:
        port = Port(program)
        await_all(port)
        yield port


def await_all(program: Program) -> None:
    """Return when each service has been answered 200.

    Raises:
        AnswerFailed: one was not.
    """
    for url in program.urls.values():
        ask_until_ok(url)


def instances(program: int, function: str) -> list[int]:
    """Return the processes of a port's service, among those that the program has started.

    Args:
        program: the process of the program.
        function: of the service.

    Raises:
        NetworkFailed: there are none.
    """
    named = f"PUMA_FUNCTION={function}".encode()
    found = [
        pid
        for pid in _descendants(program)
        if _SERVER in _words(pid, "cmdline") and named in _words(pid, "environ")
    ]
    if not found:
        raise NetworkFailed(f"no instance of {function} runs")
    return found


def _descendants(program: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{program}/task").iterdir())
        lines = [(thread / "children").read_text() for thread in threads]
    except OSError:
        return  # it ended meanwhile
    for child in map(int, " ".join(lines).split()):
        yield child
        yield from _descendants(child)


def _words(pid: int, name: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:
        return []  # it ended meanwhile, or is another user's


def _urls(port: int) -> dict[str, str]:
    return {service: f"http://127.0.0.1:{port}{path}" for service, path in PATHS.items()}


def _check_installed() -> None:
    missing = [name for name in ("flask", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise HopMissing(f"{', '.join(missing)} is not installed: pip install 'myxo[demos]'")
