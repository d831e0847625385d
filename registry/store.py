"""The contract of a definition store, and the limits that every replica relies on.

Two stores fulfil it, by the same tests: `sqlite.py` (embedded, one registry) and `etcd.py`
(replicated). A store revision is the store's own counter over all names: it orders changes, and a
watch resumes from it.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from overlay.names import ServiceName
from overlay.registry_messages import MAX_DEFINITION_BYTES, MAX_DEFINITIONS
from overlay.revision import SignedRevision
from registry.errors import StoreFull
from registry.ownership import Title

MAX_NAMES = 4 * MAX_DEFINITIONS
"""Deleted names keep their last number, so that old revisions cannot be shown as new ones."""

HISTORY_KEPT = 100
"""Revisions kept of a name: enough to roll back to, and bounded."""


@dataclass(frozen=True, slots=True)
class Change:
    """A revision with the store revision at which it was added."""

    store_revision: int
    revision: SignedRevision


@dataclass(frozen=True, slots=True)
class Listing:
    """Every service that is not deleted, as of one store revision, by name."""

    store_revision: int
    revisions: tuple[SignedRevision, ...]


class Store(Protocol):
    """Where definitions are kept: linearizable, versioned, watched.

    Every method raises `StoreUnavailable` where the store does not answer in bounded time.
    """

    @property
    def store_id(self) -> str:
        """What tells this store's revisions from any other's."""
        ...

    async def add(self, revision: SignedRevision) -> int:
        """Add a revision and return its store revision; again, if it is the newest already.

        Raises:
            RevisionConflict, NotOwner, NoSuchService: as `admit` decides.
            StoreFull: a limit of this module is reached.
        """
        ...

    async def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest revision of a name, which may be its deletion; None: never heard."""
        ...

    async def listing(self) -> Listing:
        """Return every service that is not deleted."""
        ...

    async def history(self, name: ServiceName) -> tuple[SignedRevision, ...]:
        """Return the last `HISTORY_KEPT` revisions of a name, the oldest first."""
        ...

    def watch(self, after: int) -> AsyncGenerator[Change, None]:
        """Yield every revision added after a store revision, in order and without a gap, for ever.

        Revisions that were pruned from the history before they were asked for are left out; the
        newest of each name never is. Close the iterator (`aclosing`) when done with it.
        """
        ...


class Totals(BaseModel):
    """What a store holds, kept beside the names so that the limits hold without counting.

    Attributes:
        names: every name ever taken.
        definitions: the names that are not deleted.
        size: bytes of their newest revisions as they are sent to replicas.
    """

    model_config = ConfigDict(frozen=True)

    names: int = 0
    definitions: int = 0
    size: int = 0

    def replaced(self, old: Title | None, new: Title) -> "Totals":
        """Return the totals after a name's title changed.

        Raises:
            StoreFull: saying which limit was reached.
        """
        after = Totals(
            names=self.names + (old is None),
            definitions=self.definitions + _live(new) - _live(old),
            size=self.size + _size(new) - _size(old),
        )
        grows = _live(new) > _live(old) or after.size > self.size
        if grows and after.definitions > MAX_DEFINITIONS:
            raise StoreFull(f"the registry holds {MAX_DEFINITIONS} services, the most it may")
        if grows and after.size > MAX_DEFINITION_BYTES:
            raise StoreFull(
                f"the registry's definitions would have {after.size} bytes; "
                f"{MAX_DEFINITION_BYTES} are allowed"
            )
        if after.names > max(MAX_NAMES, self.names):
            raise StoreFull(f"{MAX_NAMES} names were ever taken, the most that are remembered")
        return after


def _live(title: Title | None) -> int:
    return 0 if title is None or title.free else 1


def _size(title: Title | None) -> int:
    return 0 if title is None or title.free else len(title.newest.to_json())
