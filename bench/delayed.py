"""Backends whose time for an answer can be set while they run, and that count their requests."""

import mmap
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.client import ask
from bench.native import compiled
from overlay.testing_ports import free_port

_SHARED = struct.Struct("=Qdq")


class Delayed:
    """One backend, as the file that it shares shows it.

    Attributes:
        port: where it listens on loopback.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        with (folder / str(port)).open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SHARED.size)

    @property
    def count(self) -> int:
        """The requests that it has taken."""
        return int(_SHARED.unpack_from(self._shared)[0])

    @property
    def pid(self) -> int:
        """Its process."""
        return int(_SHARED.unpack_from(self._shared)[2])

    def take(self, seconds: float) -> None:
        """Have each answer take so long from now on."""
        struct.pack_into("=d", self._shared, 8, seconds)


def command(folder: Path, seconds: float) -> str:
    """Return the shell command that runs a backend as an instance of a service."""
    return f"exec {compiled('delayed')} $SERVICE_PORT {folder} {seconds}"


@contextmanager
def backends(folder: Path, seconds: Sequence[float]) -> Iterator[list[Delayed]]:
    """Run backends that take so long each; yield them when they answer."""
    program = compiled("delayed")
    with ExitStack() as stack:
        found: list[Delayed] = []
        for taken_s in seconds:
            port = free_port()
            arguments = [str(port), str(folder), str(taken_s)]
            process = stack.enter_context(subprocess.Popen([program, *arguments]))
            stack.callback(process.kill)
            ask(f"http://127.0.0.1:{port}/")
            found.append(Delayed(folder, port))
        yield found
