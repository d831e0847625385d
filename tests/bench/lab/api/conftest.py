"""The API, served for a test on a port of its own, with SQLite in a folder of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trio
from anyio.from_thread import start_blocking_portal

from bench.lab.api.settings import ApiSettings
from bench.lab.api.testing import InMemoryNetwork, open_api
from bench.lab.experiments.store import Store, open_store

TIMEOUT_S = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    return ApiSettings.load({"listen": "127.0.0.1:0", "state_dir": tmp_path})


@pytest.fixture
def network() -> InMemoryNetwork:
    """The network that the API is in; with two load hosts."""
    return InMemoryNetwork(["h1", "h2"], ["alexnet", "squeezenet"])


@pytest.fixture
async def store(settings: ApiSettings) -> AsyncIterator[Store]:
    """The database, as an experiment's daemon would have it beside the API."""
    async with open_store(settings.database_url()) as opened:
        yield opened


@pytest.fixture
async def api(settings: ApiSettings, network: InMemoryNetwork) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API."""
    with trio.fail_after(TIMEOUT_S):
        async with (
            open_api(settings, network) as url,
            httpx.AsyncClient(base_url=f"{url}/api", timeout=TIMEOUT_S) as client,
        ):
            yield client


@pytest.fixture
def served(settings: ApiSettings, network: InMemoryNetwork) -> Iterator[httpx.Client]:
    """A client of the API for tests that are not async."""
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(open_api(settings, network)) as url,
        httpx.Client(base_url=f"{url}/api", timeout=TIMEOUT_S) as client,
    ):
        yield client
