"""A program for `myxo.puma` as its user starts it, by `python NAME.py`, on ports of its own."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.starting import Started, started
from overlay.testing_ports import free_ports

READY_TIMEOUT_S = 120.0
"""It may have a whole network to found."""

END_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class PumaProgram:
    """A program that serves.

    Attributes:
        started: its process, and what it prints.
        port: of localhost, where its services answer.
        environment: of a program beside it, which asks the same machine's proxy.
    """

    started: Started
    port: int
    environment: Mapping[str, str]

    def url(self, path: str) -> str:
        """Return where what it serves at a path is asked for."""
        return f"http://localhost:{self.port}{path}"


@contextmanager
def puma_program(
    file: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[PumaProgram]:
    """Run a program for the length of a block, which begins when its services answer.

    Args:
        file: of the program; it is started in its own folder.
        environment: of its user.
        folder: for what it prints; else the program's own.

    Raises:
        NetworkFailed: it did not get ready, or did not end; says what it printed.
    """
    port, proxy_port, p2p_port = free_ports(3)
    told = {
        **environment,
        "MYXO_PUMA_PORT": str(port),
        "MYXO_PUMA_PROXY_PORT": str(proxy_port),
        "MYXO_PUMA_P2P_LISTEN_ADDR": f"127.0.0.1:{p2p_port}",
        # A busy machine may keep it longer than a person waits.
        "MYXO_REGISTRY_CLI_TIMEOUT_S": "60",
    }
    with started(
        [sys.executable, file.name],
        log=(folder or file.parent) / f"{file.stem}.log",
        environment=told,
        cwd=file.parent,
        ready_timeout_s=READY_TIMEOUT_S,
        stop_timeout_s=END_TIMEOUT_S,
    ) as program:
        yield PumaProgram(program, port, told | {"MYXO_PROXY": f"127.0.0.1:{proxy_port}"})
