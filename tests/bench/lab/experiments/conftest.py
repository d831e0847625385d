"""Real databases for the tests: SQLite, and servers on ports of their own."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine

from bench.lab.experiments import mariadb
from bench.lab.experiments.database import database_url
from bench.lab.experiments.store import Store, open_store
from bench.lab.experiments.tables import SCHEMA
from overlay.testing_ports import free_port

KINDS = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "mariadb")),
]


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[mariadb.MariaDb]:
    """A MariaDB, started and stopped as `myxo lab db` does."""
    if shutil.which("mariadbd", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("MariaDB is not installed (Debian: mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="myxo-mariadb-") as folder:
        yield mariadb.start(Path(folder), free_port())
        mariadb.stop(Path(folder))


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """The URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        return database_url("", {}, tmp_path)
    if request.param == "mariadb":
        server: mariadb.MariaDb = request.getfixturevalue("mariadb_server")
        return emptied(database_url("", server.exports(), tmp_path))
    return emptied(database_url(request.getfixturevalue("postgres"), {}, tmp_path))


def emptied(url: URL) -> URL:
    engine = create_engine(url)
    SCHEMA.drop_all(engine)
    engine.dispose()
    return url


@pytest.fixture
async def store(url: URL) -> AsyncIterator[Store]:
    """A store in each kind of database."""
    async with open_store(url) as opened:
        yield opened


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store in SQLite, for what is the same in all."""
    async with open_store(database_url("", {}, tmp_path)) as opened:
        yield opened
