"""A network of load hosts, and what they send their requests to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from bench.lab.hosts.testing import Network, Server, open_network, open_server


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    """What load is sent to."""
    return await open_server(nursery)


@pytest.fixture
async def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    """A network whose admin is this user; hosts join as a test asks."""
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    with trio.fail_after(90):
        async with open_network(tmp_path) as opened:
            yield opened
