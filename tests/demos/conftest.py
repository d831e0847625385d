"""A network for the demos' services, which run as processes from this checkout."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from bench.browser import Browser, open_browser
from bench.network import Network, network
from overlay.testing_ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def running() -> Iterator[Network]:
    """A network of this machine alone, which runs processes; shared by a module."""
    with network("process") as made:
        yield made


@pytest.fixture(scope="module")
def add(running: Network) -> Callable[[str, str], None]:
    """`add("web-api", "web/api")` registers the service of a demo's folder."""

    def adding(name: str, folder: str) -> None:
        module = f"demos.{folder.replace('/', '.')}.server"
        command = f"exec python3 -m {module} $SERVICE_PORT 127.0.0.1"
        conf = str(ROOT / "demos" / folder / "service-conf.json")
        running.registry_cli("add", "--conf", conf, "--process", command, name)

    return adding


@pytest.fixture
def starts(running: Network) -> Callable[[], int]:
    """How many instances the allocator has started since the network is up."""

    def counted() -> int:
        daemons = trio.run(running.status)
        port = next(d["metrics_port"] for d in daemons if d["role"] == "allocator")
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        line = 'myxo_allocator_allocations_total{result="ready"} '
        found = [text for text in metrics.splitlines() if text.startswith(line)]
        return int(float(found[0].removeprefix(line))) if found else 0

    return counted


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """`with serving([...], NAME="value") as url:` runs a server, told its port last."""
    return _serving


@contextmanager
def _serving(command: list[str], **environment: str) -> Iterator[str]:
    """Run a server on a free port and yield its URL once it accepts connections."""
    port = free_port()
    process = subprocess.Popen([*command, str(port)], env=os.environ | environment)
    try:
        transport = httpx.HTTPTransport(retries=9)  # 0, 0.5, 1, 2, … s between them
        with httpx.Client(transport=transport, timeout=10) as client:
            client.get(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(60) == 0, "a server ends cleanly when it is told to"


@pytest.fixture
def browser(chromedriver_program: str, tmp_path: Path) -> Iterator[Browser]:
    """A window of a headless Chromium with a profile of its own."""
    with open_browser(chromedriver_program, tmp_path) as window:
        yield window
