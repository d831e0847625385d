"""A network for the demos' services, which run as processes from this checkout."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

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


# a browser

LOOK_S = 0.05
BROWSER_TIMEOUT_S = 120.0
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""What a reference to an element is called (WebDriver, section 12.3)."""


@dataclass(frozen=True)
class Browser:
    """A window of Chromium, driven as WebDriver (W3C) has it."""

    session: httpx.Client

    def open(self, url: str) -> None:
        """Open a page and return when it is loaded."""
        self._post("url", {"url": url})

    def type(self, css: str, text: str) -> None:
        """Type into the first element that is found."""
        found = self._post("element", {"using": "css selector", "value": css})
        self._post(f"element/{found[_ELEMENT]}/value", {"text": text})

    def click(self, css: str) -> None:
        """Click on the first element that is found."""
        found = self._post("element", {"using": "css selector", "value": css})
        self._post(f"element/{found[_ELEMENT]}/click", {})

    def texts(self, css: str) -> list[str]:
        """Return what all elements that are found show."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        found: list[str] = self._post("execute/sync", {"script": script, "args": [css]})
        return found

    def await_texts(self, css: str, count: int) -> list[str]:
        """Return the same once there are so many."""
        deadline = time.monotonic() + BROWSER_TIMEOUT_S
        while len(found := self.texts(css)) < count:
            assert time.monotonic() < deadline, found
            time.sleep(LOOK_S)
        return found

    def _post(self, path: str, said: dict[str, Any]) -> Any:
        answer = self.session.post(path, json=said)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@pytest.fixture
def browser(chromedriver_program: str, tmp_path: Path) -> Iterator[Browser]:
    """A window of a headless Chromium with a profile of its own."""
    port = free_port()
    # As root, which its sandbox refuses; it opens a page of ours only.
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments.append(f"--user-data-dir={tmp_path / 'profile'}")
    wish = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}}
    driver = subprocess.Popen(
        [chromedriver_program, f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    transport = httpx.HTTPTransport(retries=9)  # 0, 0.5, 1, 2, … s between them
    sessions = f"http://127.0.0.1:{port}/session"
    try:
        with httpx.Client(transport=transport, timeout=BROWSER_TIMEOUT_S) as client:
            answer = client.post(sessions, json=wish)
            assert answer.status_code == 200, answer.text
            session = f"{sessions}/{answer.json()['value']['sessionId']}"
            client.base_url = httpx.URL(session)
            try:
                yield Browser(client)
            finally:
                assert client.delete(session).status_code == 200  # which ends Chromium
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # and what is left of it
        driver.wait(60)
