"""What a registry peer tells its watchers, from one watch of its store.

A thousand proxies watch the registry; the store is watched once. The feed holds the newest revision
of every service and the last changes, so a watcher that was away for a moment gets what it missed
and one that was away for long gets everything.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import aclosing

import structlog
import trio

from overlay.names import ServiceName
from overlay.registry_messages import MAX_PAGE_BYTES, MAX_PAGE_REVISIONS, Page
from overlay.revision import SignedRevision
from registry.errors import StoreUnavailable
from registry.store import Change, Store

CHANGES_KEPT = 2048
"""Some hours of an eager team's changes."""

RETRY_S = 1.0

log = structlog.get_logger()


class Feed:
    """Follows a store; `run` keeps it fresh."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._newest: dict[ServiceName, SignedRevision] = {}
        self._changes: deque[Change] = deque()
        self._floor = 0
        self._head = 0
        self._change = trio.Event()

    @property
    def head(self) -> int:
        """The store revision up to which this feed knows everything."""
        return self._head

    def __len__(self) -> int:
        """Return how many services there are."""
        return len(self._newest)

    def names(self) -> list[ServiceName]:
        """Return every service's name."""
        return list(self._newest)

    def snapshot(self) -> Iterator[Page]:
        """Yield all services as the pages of a snapshot."""
        head, revisions = self._head, tuple(self._newest.values())
        return pages(self._store.store_id, head, revisions, snapshot=True)

    def since(self, after: int) -> tuple[Change, ...] | None:
        """Return the changes after a store revision; None if it is too long ago."""
        if after < self._floor:
            return None
        return tuple(change for change in self._changes if change.store_revision > after)

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._change.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the store until cancelled; `started` once everything in it is known.

        Raises:
            StoreUnavailable: the store does not answer at the start.
        """
        listing = await self._store.listing()
        self._newest = {r.revision.name: r for r in listing.revisions}
        self._floor = self._head = listing.store_revision
        task_status.started()
        while True:
            try:
                async with aclosing(self._store.watch(self._head)) as changes:
                    async for change in changes:
                        self.apply(change)
            except StoreUnavailable as exc:
                log.warning("registry.watch_interrupted", error=str(exc))
            await trio.sleep(RETRY_S)

    def apply(self, change: Change) -> None:
        """Take in the store's next change."""
        name = change.revision.revision.name
        self._newest.pop(name, None)
        if change.revision.revision.spec is not None:
            self._newest[name] = change.revision
        self._head = change.store_revision
        self._changes.append(change)
        if len(self._changes) > CHANGES_KEPT:
            self._floor = self._changes.popleft().store_revision
        self._change.set()
        self._change = trio.Event()


def pages(
    store: str, head: int, revisions: Iterable[SignedRevision], *, snapshot: bool = False
) -> Iterator[Page]:
    """Yield revisions in messages of bounded size; the last one is complete."""
    batch: list[SignedRevision] = []
    size = 0
    for revision in revisions:
        length = len(revision.to_json())
        if batch and (size + length > MAX_PAGE_BYTES or len(batch) == MAX_PAGE_REVISIONS):
            yield _page(store, head, batch, complete=False, snapshot=snapshot)
            batch, size = [], 0
        batch.append(revision)
        size += length
    yield _page(store, head, batch, complete=True, snapshot=snapshot)


def _page(
    store: str, head: int, batch: list[SignedRevision], *, complete: bool, snapshot: bool
) -> Page:
    return Page(
        store=store,
        store_revision=head,
        complete=complete,
        snapshot=snapshot,
        revisions=tuple(revision.signed for revision in batch),
    )
