"""What only the file can show: durability, exclusion, damage, versions."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from registry.errors import StoreMisused
from registry.sqlite import open_sqlite
from registry.testing import MakeRevision

_ADD_AND_DIE = """
import os, signal, sys, trio
from pathlib import Path
from overlay.identity import Identity
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from registry.sqlite import open_sqlite

async def main():
    owner = Identity.from_seed(b"a" * 32)
    async with open_sqlite(Path(sys.argv[1]), admin=None) as store:
        for n in range(10):
            spec = ServiceSpec(process="true")
            revision = Revision(name=f"svc-{n}", number=1, spec=spec)
            await store.add(SignedRevision.sign(owner, revision))
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_what_add_returned_for_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    died = await trio.run_process([sys.executable, "-c", _ADD_AND_DIE, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    async with open_sqlite(path, admin=None) as store:
        assert len((await store.listing()).revisions) == 10


async def test_it_is_the_same_store_after_a_restart(tmp_path: Path, revision: MakeRevision) -> None:
    path = tmp_path / "deep" / "registry.sqlite3"
    async with open_sqlite(path, admin=None) as store:
        first = await store.add(revision())
        store_id = store.store_id
    async with open_sqlite(path, admin=None) as store:
        assert store.store_id == store_id
        assert await store.add(revision(number=2)) == first + 1


async def test_two_processes_cannot_open_it(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    async with open_sqlite(path, admin=None):
        with pytest.raises(StoreMisused, match="another registry-service"):
            async with open_sqlite(path, admin=None):
                pass


async def test_a_file_that_is_no_database_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    path.write_text("this is no database, it is a letter " * 100)
    with pytest.raises(StoreMisused, match=str(path)):
        async with open_sqlite(path, admin=None):
            pass
    assert path.read_text().startswith("this is no database")


async def test_a_later_version_of_the_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreMisused, match="later version"):
        async with open_sqlite(path, admin=None):
            pass


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreMisused, match="file/registry"):
        async with open_sqlite(tmp_path / "file" / "registry.sqlite3", admin=None):
            pass


def test_the_module_needs_no_libp2p() -> None:
    check = """
import sys, registry.sqlite
from overlay.lean_libp2p import PACKAGES
loaded = {name for name in sys.modules if name.partition(".")[0] == "libp2p"}
sys.exit(str(loaded - set(PACKAGES)) if loaded - set(PACKAGES) else 0)
"""
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
