"""The replicated store: definitions in etcd, by compare and swap.

Keys, all under `/myxo/NETWORK/`:

    store                     what tells this store from others, written once
    totals                    how much there is (`Totals`)
    names/NAME                owner and newest revision (`_Name`)
    revisions/NAME/NUMBER     each kept revision, created once and never changed

A revision key is created in the same transaction as the name key is swapped, so its creation
revision is its store revision. That is what makes the watch whole: events come in order, a
reconnect resumes from the last one, and where etcd has compacted its event history, a read of the
keys created since gives the very same changes.

Every transaction also swaps `totals`, which keeps the limits exact and makes concurrent adds of
different names try again; definitions change rarely enough.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

import structlog
import trio
from pydantic import BaseModel, ConfigDict, ValidationError

from overlay.errors import MyxoError
from overlay.names import PeerId, ServiceName
from overlay.revision import SignedRevision
from overlay.signed import Signed
from registry.errors import StoreMisused, StoreUnavailable
from registry.etcd_gateway import (
    Compacted,
    EtcdAccess,
    EtcdGateway,
    KeyValue,
    StreamSilent,
    prefix_end,
)
from registry.ownership import Title, admit
from registry.store import HISTORY_KEPT, Change, Listing, Totals

PAGE = 24
"""Keys a read: 24 of the largest revisions stay below gRPC's 4 MiB."""

ADD_ATTEMPTS = 64
"""Adds that collide on the totals; each attempt means that another add got through."""

WATCH_RETRY_FIRST_S = 0.1
WATCH_RETRY_MOST_S = 5.0

log = structlog.get_logger()


class _Name(BaseModel):
    model_config = ConfigDict(extra="ignore")

    owner: PeerId
    newest: Signed

    def title(self) -> Title:
        return Title(self.owner, SignedRevision.verified(self.newest))


class EtcdStore:
    """A `Store` on an etcd cluster; made by `open_etcd`."""

    def __init__(
        self, gateway: EtcdGateway, prefix: str, store_id: str, admin: PeerId | None
    ) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self._names = f"{prefix}names/"
        self._revisions = f"{prefix}revisions/"
        self._totals = f"{prefix}totals"
        self._admin = admin
        self.store_id = store_id

    @property
    def gateway(self) -> EtcdGateway:
        """The cluster's API, for the calls that concern its members."""
        return self._gateway

    async def add(self, revision: SignedRevision) -> int:
        """Add a revision; see `Store.add`."""
        for _ in range(ADD_ATTEMPTS):
            added = await self._try_to_add(revision)
            if added is not None:
                return added
        raise StoreUnavailable(f"{ADD_ATTEMPTS} other changes got in first; try again")

    async def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest revision; see `Store.get`."""
        found = (await self._gateway.read(self._names + name)).items
        return _name(found[0]).title().newest if found else None

    async def listing(self) -> Listing:
        """Return what is not deleted; see `Store.listing`."""
        head, items = await self._read_all(self._names)
        newest = [_name(item).title().newest for item in items]
        return Listing(head, tuple(r for r in newest if r.revision.spec is not None))

    async def history(self, name: ServiceName) -> tuple[SignedRevision, ...]:
        """Return the kept revisions; see `Store.history`."""
        _, items = await self._read_all(f"{self._revisions}{name}/")
        return tuple(_change(item).revision for item in items)

    async def watch(self, after: int) -> AsyncGenerator[Change, None]:
        """Yield what is added; see `Store.watch`."""
        delay = WATCH_RETRY_FIRST_S
        while True:
            try:
                async with aclosing(self._watch_once(after)) as items:
                    async for item in items:
                        delay = WATCH_RETRY_FIRST_S
                        if isinstance(item, int):
                            after = max(after, item)
                        elif (change := _change(item)).store_revision > after:
                            yield change
                            after = change.store_revision
            except StreamSilent:
                continue
            except StoreUnavailable as exc:
                log.warning("etcd.watch_interrupted", after=after, error=str(exc))
            await trio.sleep(delay)
            delay = min(delay * 2, WATCH_RETRY_MOST_S)

    async def _watch_once(self, after: int) -> AsyncGenerator[KeyValue | int, None]:
        first, end = self._revisions, prefix_end(self._revisions)
        try:
            async with aclosing(self._gateway.watch(first, end, after)) as items:
                async for item in items:
                    yield item
        except Compacted as exc:
            log.info("etcd.watch_compacted", after=after, compacted=exc.revision)
        else:
            raise StoreUnavailable("etcd ended the watch")
        found = await self._gateway.read(first, end, created_after=after, limit=PAGE)
        for item in found.items:
            yield item
        if not found.more:
            yield found.revision

    async def _try_to_add(self, revision: SignedRevision) -> int | None:
        name, number = revision.revision.name, revision.revision.number
        key = self._names + name
        found, totals_found = await self._read_for_add(key)
        old = _name(found).title() if found is not None else None
        if found is not None and old is not None and old.newest.signed == revision.signed:
            return found.mod_revision
        title = admit(old, revision, self._admin)
        totals = Totals.model_validate_json(totals_found.value).replaced(old, title)
        stored = _Name(owner=title.owner, newest=revision.signed)
        return await self._gateway.swap(
            {
                key: found.mod_revision if found is not None else 0,
                self._totals: totals_found.mod_revision,
            },
            {
                key: stored.model_dump_json().encode(),
                self._revision_key(name, number): revision.to_json(),
                self._totals: totals.model_dump_json().encode(),
            },
            [self._revision_key(name, number - HISTORY_KEPT)] if number > HISTORY_KEPT else [],
        )

    async def _read_for_add(self, key: str) -> tuple[KeyValue | None, KeyValue]:
        """Read a name and then the totals; the swap finds out if either changes meanwhile."""
        found = (await self._gateway.read(key)).items
        totals = (await self._gateway.read(self._totals)).items
        if not totals:
            raise StoreUnavailable(f"etcd lost {self._totals}: start the registry-service again")
        return (found[0] if found else None), totals[0]

    async def _read_all(self, prefix: str) -> tuple[int, list[KeyValue]]:
        """Return every key under `prefix` as of one store revision, and that revision."""
        end = prefix_end(prefix)
        page = await self._gateway.read(prefix, end, limit=PAGE)
        head, items = page.revision, list(page.items)
        while page.more:
            page = await self._gateway.read(items[-1].key + "\0", end, limit=PAGE, at=head)
            items += page.items
        return head, items

    def _revision_key(self, name: ServiceName, number: int) -> str:
        return f"{self._revisions}{name}/{number:012d}"


async def open_etcd(access: EtcdAccess, *, network_id: str, admin: PeerId | None) -> EtcdStore:
    """Return a network's store in an etcd cluster, laid out there if it is new.

    Raises:
        StoreUnavailable: the cluster does not answer.
        StoreMisused: an endpoint, a certificate or the credentials are wrong.
    """
    prefix = f"/myxo/{network_id}/"
    gateway = EtcdGateway(access)
    await gateway.swap({f"{prefix}store": 0}, {f"{prefix}store": str(uuid4()).encode()})
    await gateway.swap({f"{prefix}totals": 0}, {f"{prefix}totals": b"{}"})
    store_id = (await gateway.read(f"{prefix}store")).items[0].value.decode()
    return EtcdStore(gateway, prefix, store_id, admin)


def _name(item: KeyValue) -> _Name:
    try:
        return _Name.model_validate_json(item.value)
    except ValidationError as exc:
        raise StoreMisused(f"etcd's key {item.key} holds no service: {exc}") from exc


def _change(item: KeyValue) -> Change:
    try:
        return Change(item.mod_revision, SignedRevision.from_json(item.value))
    except MyxoError as exc:
        raise StoreMisused(f"etcd's key {item.key} holds no revision: {exc}") from exc
