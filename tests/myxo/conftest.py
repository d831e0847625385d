from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from overlay.identity import load_or_create
from overlay.settings import owner_key_path
from overlay.testing_nodes import NodeLab


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NodeLab]:
    """A network that is still empty, whose admin is this user."""
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr("myxo.status.SYSTEM_STATE_DIR", tmp_path / "system")
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            yield NodeLab(tmp_path, nursery, load_or_create(owner_key_path()))
        nursery.cancel_scope.cancel()
