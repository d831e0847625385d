"""A worker of maps as a process of its own, which answers as a proxy would for it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from myxo.mapping.loops import LOOPS, Settled
from overlay.testing_ports import free_port

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker."""
    folder: Path = tmp_path_factory.mktemp("worker")
    with worker_process(folder) as address:
        yield address


def worker_process(folder: Path) -> "WorkerProcess":
    """Return a worker to be entered."""
    return WorkerProcess(folder)


@pytest.fixture
def make_worker(tmp_path: Path) -> "Callable[[], WorkerProcess]":
    """Makes workers that a test starts and ends itself."""
    return lambda: worker_process(tmp_path)


class WorkerProcess:
    """A worker for as long as the block runs."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "worker.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        environment = os.environ | {"SERVICE_PORT": str(self.port)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "myxo.mapping.worker"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        address = f"127.0.0.1:{self.port}"
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                assert httpx.get(f"http://{address}/", timeout=TIMEOUT_S).status_code == 200
            except httpx.TransportError:
                assert self.process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)
            else:
                return address

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0, self._log.read_text()


def await_cleared_up() -> None:
    """Wait until the last map has let go of its workers, which its caller does not wait for."""
    over = threading.Event()

    async def next_one(_settled: Settled) -> None:
        return

    LOOPS.begin(next_one, lambda _: over.set())
    assert over.wait(60)
