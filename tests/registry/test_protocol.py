from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from overlay.calls import CallRefused
from overlay.lookups import HINT_BURST, HINT_RATE
from overlay.names import PeerId, ServiceName
from overlay.registry_messages import Found, Get, RegistryRefusal
from registry import protocol as subject
from registry.feed import Feed
from registry.protocol import RegistryMetrics, RegistryProtocol
from registry.sqlite import open_sqlite
from registry.testing import MakeRevision

MAD, SANE = PeerId("mad"), PeerId("sane")


async def test_a_peer_that_asks_without_end_is_held_back_and_others_are_not(
    tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "PEER_BURST", 50.0)
    monkeypatch.setattr(subject, "PEER_RATE", 0.001)
    compared: list[str] = []

    def near_names(name: ServiceName, _: list[ServiceName]) -> list[ServiceName]:
        compared.append(name)
        return []

    monkeypatch.setattr(subject, "near_names", near_names)
    protocol = RegistryProtocol(RegistryMetrics(CollectorRegistry()), lambda _: False)
    async with open_sqlite(tmp_path / "store.sqlite3", admin=None) as store:
        await store.add(revision())
        feed = Feed(store)
        await nursery.start(feed.run)
        protocol.open(store, feed)
        codes = []
        began = trio.current_time()
        for n in range(200):
            with pytest.raises(CallRefused) as caught:
                await protocol.serve(MAD, Get(name=f"made-up-{n}"))
            codes.append(caught.value.code)
        assert codes == [RegistryRefusal.UNKNOWN] * 50 + [RegistryRefusal.BUSY] * 150
        assert len(compared) <= HINT_BURST + HINT_RATE * (trio.current_time() - began)
        found = await protocol.serve(SANE, Get(name=ServiceName("hello")))
        assert isinstance(found, Found)
        nursery.cancel_scope.cancel()
