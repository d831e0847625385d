"""Real etcd processes, owners and revisions for the registry's tests."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from registry.etcd import open_etcd
from registry.etcd_gateway import EtcdAccess
from registry.sqlite import open_sqlite
from registry.store import Store
from registry.testing import EtcdProcess, MakeRevision, OpenStore


def require_etcd() -> None:
    if shutil.which("etcd") is None:
        if os.environ.get("CI"):
            pytest.fail("etcd is not installed, and CI must test against it")
        pytest.skip("etcd is not installed")


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    require_etcd()
    process = EtcdProcess(tmp_path / "etcd")
    process.start()
    try:
        await process.wait_until_ready()
        yield process
    finally:
        process.stop()


@pytest.fixture(params=["sqlite", pytest.param("etcd", marks=pytest.mark.etcd)], scope="module")
def open_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenStore]:
    """A way to open an empty store of each kind; one etcd serves the whole module."""
    home = tmp_path_factory.mktemp("stores")
    if request.param == "sqlite":
        yield _sqlite_opener(home)
        return
    require_etcd()
    process = EtcdProcess(home / "etcd")
    process.start()
    try:
        trio.run(process.wait_until_ready)
        yield _etcd_opener(process.endpoint)
    finally:
        process.stop()


def _sqlite_opener(home: Path) -> OpenStore:
    opened = 0

    @asynccontextmanager
    async def opener(admin: PeerId | None) -> AsyncIterator[Store]:
        nonlocal opened
        opened += 1
        async with open_sqlite(home / f"{opened}.sqlite3", admin=admin) as store:
            yield store

    return opener


def _etcd_opener(endpoint: str) -> OpenStore:
    opened = 0

    @asynccontextmanager
    async def opener(admin: PeerId | None) -> AsyncIterator[Store]:
        nonlocal opened
        opened += 1
        access = EtcdAccess((endpoint,))
        yield await open_etcd(access, network_id=f"{opened:016x}", admin=admin)

    return opener


@pytest.fixture
def alice() -> Identity:
    return Identity.from_seed(b"a" * 32)


@pytest.fixture
def bob() -> Identity:
    return Identity.from_seed(b"b" * 32)


@pytest.fixture
def revision(alice: Identity) -> MakeRevision:
    """Sign a revision; alice's process service unless told otherwise."""

    def make(
        name: str = "hello",
        number: int = 1,
        owner: Identity = alice,
        *,
        command: str | None = "true",
        editors: tuple[PeerId, ...] = (),
    ) -> SignedRevision:
        spec = None if command is None else ServiceSpec(process=command)
        content = Revision(name=ServiceName(name), number=number, spec=spec, editors=editors)
        return SignedRevision.sign(owner, content)

    return make
