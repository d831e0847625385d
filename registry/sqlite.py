"""The embedded store: one SQLite file, one registry.

Write-ahead log with `synchronous = FULL`: what `add` has returned for is on the disk, whatever is
killed next. All statements run on one connection in one thread at a time, so transactions need no
further lock; a lock file keeps a second process off the file, because changes are announced to
watchers within this process.
"""

import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import trio

from overlay.names import PeerId, ServiceName
from overlay.revision import SignedRevision
from registry.errors import StoreMisused, StoreUnavailable
from registry.ownership import Title, admit
from registry.store import HISTORY_KEPT, Change, Listing, Totals

WATCH_BATCH = 256

T = TypeVar("T")

_MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE names (
        name TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        deleted INTEGER NOT NULL,
        store_revision INTEGER NOT NULL,
        signed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE revisions (
        store_revision INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        signed BLOB NOT NULL,
        UNIQUE (name, number)
    );
    INSERT INTO meta VALUES ('totals', '{}');
    """,
)
"""One script a version; `user_version` counts those that were run."""


class SqliteStore:
    """A `Store` in one file; made by `open_sqlite`."""

    def __init__(self, db: sqlite3.Connection, path: Path, admin: PeerId | None) -> None:
        self._db = db
        self._path = path
        self._admin = admin
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._added = trio.Event()
        self.store_id: str = _meta(db, "store_id")

    async def add(self, revision: SignedRevision) -> int:
        """Add a revision; see `Store.add`."""
        store_revision = await self._run(lambda: self._add(revision))
        self._added.set()
        self._added = trio.Event()
        return store_revision

    async def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest revision; see `Store.get`."""
        title = await self._run(lambda: self._title(name))
        return title[0].newest if title is not None else None

    async def listing(self) -> Listing:
        """Return what is not deleted; see `Store.listing`."""

        def read() -> Listing:
            rows = self._all("SELECT signed FROM names WHERE NOT deleted ORDER BY name")
            return Listing(self._head(), tuple(SignedRevision.from_json(r[0]) for r in rows))

        return await self._run(read)

    async def history(self, name: ServiceName) -> tuple[SignedRevision, ...]:
        """Return the kept revisions; see `Store.history`."""

        def read() -> tuple[SignedRevision, ...]:
            query = "SELECT signed FROM revisions WHERE name = ? ORDER BY number"
            return tuple(SignedRevision.from_json(r[0]) for r in self._all(query, name))

        return await self._run(read)

    async def watch(self, after: int) -> AsyncGenerator[Change, None]:
        """Yield what is added; see `Store.watch`."""
        while True:
            added = self._added
            changes = await self._run(lambda since=after: self._since(since))  # type: ignore[misc]
            for change in changes:
                yield change
                after = change.store_revision
            if not changes:
                await added.wait()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._one_at_a_time)
        except sqlite3.Error as exc:
            raise StoreUnavailable(f"the registry's file {self._path} failed: {exc}") from exc

    def _add(self, revision: SignedRevision) -> int:
        name = revision.revision.name
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            known = self._title(name)
            if known is not None and known[0].newest.signed == revision.signed:
                return known[1]
            old = known[0] if known is not None else None
            title = admit(old, revision, self._admin)
            totals = Totals.model_validate_json(_meta(self._db, "totals")).replaced(old, title)
            return self._write(title, totals)

    def _write(self, title: Title, totals: Totals) -> int:
        revision, signed = title.newest.revision, title.newest.to_json()
        cursor = self._db.execute(
            "INSERT INTO revisions (name, number, signed) VALUES (?, ?, ?)",
            (revision.name, revision.number, signed),
        )
        store_revision = cursor.lastrowid or 0
        self._db.execute(
            "REPLACE INTO names VALUES (?, ?, ?, ?, ?)",
            (revision.name, title.owner, title.free, store_revision, signed),
        )
        self._db.execute(
            "DELETE FROM revisions WHERE name = ? AND number <= ?",
            (revision.name, revision.number - HISTORY_KEPT),
        )
        self._db.execute(
            "UPDATE meta SET value = ? WHERE key = 'totals'", (totals.model_dump_json(),)
        )
        return store_revision

    def _title(self, name: ServiceName) -> tuple[Title, int] | None:
        rows = self._all("SELECT owner, signed, store_revision FROM names WHERE name = ?", name)
        for owner, signed, store_revision in rows:
            return Title(PeerId(owner), SignedRevision.from_json(signed)), store_revision
        return None

    def _since(self, after: int) -> tuple[Change, ...]:
        query = (
            "SELECT store_revision, signed FROM revisions WHERE store_revision > ? "
            "ORDER BY store_revision LIMIT ?"
        )
        rows = self._all(query, after, WATCH_BATCH)
        return tuple(Change(number, SignedRevision.from_json(signed)) for number, signed in rows)

    def _head(self) -> int:
        row = self._all("SELECT coalesce(max(store_revision), 0) FROM revisions")[0]
        return int(row[0])

    def _all(self, query: str, *values: object) -> tuple[Any, ...]:
        return tuple(self._db.execute(query, values))


@asynccontextmanager
async def open_sqlite(path: Path, *, admin: PeerId | None) -> AsyncIterator[SqliteStore]:
    """Open the store at `path`, made there if it does not exist.

    Raises:
        StoreMisused: another process has it open, it is no such file, or it is a later version's.
    """
    lock = _lock(path)
    try:
        with closing(_connect(path)) as db:
            yield SqliteStore(db, path, admin)
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreMisused(f"the registry's file {path} cannot be used: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise StoreMisused(
            f"another registry-service has {path} open; stop it first, or give this one another "
            "--state-dir"
        ) from exc
    return fd


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _migrate(db, path)
    except sqlite3.Error as exc:
        db.close()
        raise StoreMisused(
            f"{path} cannot be read as the registry's file ({exc}); move it away to begin a new one"
        ) from exc
    except StoreMisused:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        raise StoreMisused(f"{path} was written by a later version of Myxo (format {version})")
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
    db.execute("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", (str(uuid4()),))


def _meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0])
