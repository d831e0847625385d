"""A real Chromium before a real API; experiments are run by a daemon with load hosts in memory."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from anyio.from_thread import start_blocking_portal

from bench.browser import Browser, open_browser
from bench.lab.api.settings import ApiSettings
from bench.lab.api.testing import InMemoryNetwork, open_api
from bench.lab.experiments.daemon import Daemon, Pace
from bench.lab.experiments.recording import open_this_node
from bench.lab.experiments.store import SqlTraceSink, open_store
from bench.lab.testing import open_in_memory

TIMEOUT_S = 60.0
HOSTS = ("h1", "h2")
TOKEN = "correct-horse-battery"


@dataclass(frozen=True)
class Page:
    """A window in which the page is, and the API behind it.

    Attributes:
        folder: where the browser puts what it saves.
    """

    browser: Browser
    url: str
    api: httpx.Client
    folder: Path

    def go(self, view: str) -> None:
        """Open a view, with nothing left of the one before."""
        self.browser.open("about:blank")
        self.browser.open(f"{self.url}/#/{view}")

    def queue(self, name: str, seconds: int = 2, rate: int = 10) -> str:
        """Submit an experiment; return its id."""
        workload = {"service": "squeezenet", "ticks": [rate] * seconds}
        configuration = {"duration": seconds, "interval": 1, "workloads": [workload]}
        body = {"experiment": {"name": name}, "configuration": configuration}
        exp_id: str = self.api.post("/experiments", json=body).raise_for_status().json()
        return exp_id

    def shown(self, exp_id: str) -> dict[str, Any]:
        """Return what the API says of an experiment."""
        found: dict[str, Any] = self.api.get(f"/experiments/{exp_id}").raise_for_status().json()
        return found


@asynccontextmanager
async def balanced(services: Sequence[str], policy: str) -> AsyncIterator[None]:
    """Spread nothing: hosts in memory ask no instances."""
    del services, policy
    yield


@asynccontextmanager
async def open_lab(settings: ApiSettings) -> AsyncIterator[str]:
    """Serve the API, and run what is submitted."""
    async with (
        open_store(settings.database_url()) as store,
        open_in_memory(HOSTS, SqlTraceSink(store)) as hosts,
        open_api(settings, InMemoryNetwork(HOSTS, ["alexnet", "squeezenet"])) as url,
        trio.open_nursery() as nursery,
    ):
        pace = Pace(look_s=0.1, period_s=0.2)
        nodes = partial(open_this_node, "h1")
        daemon = Daemon(store, hosts, nodes, "tests", pace, balanced=balanced)
        await nursery.start(daemon.run)
        yield url
        nursery.cancel_scope.cancel()


@contextmanager
def opened(browser: tuple[Browser, Path], settings: ApiSettings) -> Iterator[Page]:
    """Open the page of a lab with these settings."""
    window, folder = browser
    headers = {"Authorization": f"Bearer {settings.token or None}"}
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(open_lab(settings)) as url,
        httpx.Client(base_url=f"{url}/api", headers=headers, timeout=TIMEOUT_S) as client,
    ):
        yield Page(window, url, client, folder)
        window.open("about:blank")  # else it goes on asking while the server stops


@pytest.fixture(scope="module")
def browser(
    chromedriver_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Browser, Path]]:
    """A window, and the folder that it saves to; shared by a module's tests."""
    folder = tmp_path_factory.mktemp("browser")
    with open_browser(chromedriver_program, folder) as window:
        yield window, folder


@pytest.fixture
def page(browser: tuple[Browser, Path], tmp_path: Path) -> Iterator[Page]:
    """The page of a lab without any experiments."""
    settings = ApiSettings.load({"listen": "127.0.0.1:0", "state_dir": tmp_path})
    with opened(browser, settings) as made:
        yield made


@pytest.fixture
def guarded(browser: tuple[Browser, Path], tmp_path: Path) -> Iterator[Page]:
    """The page of a lab that asks for a token."""
    given = {"listen": "127.0.0.1:0", "state_dir": tmp_path, "token": TOKEN}
    with opened(browser, ApiSettings.load(given)) as made:
        yield made
