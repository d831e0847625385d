"""Answers what peers ask of a registry: checks every input, asks the store, explains refusals."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, assert_never

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel

from overlay.calls import CallRefused
from overlay.errors import InvalidName, MalformedMessage, SignatureInvalid
from overlay.lookups import Lookups
from overlay.names import PeerId, ServiceName, near_names, service_name
from overlay.pacing import Buckets
from overlay.registry_messages import (
    HEARTBEAT_S,
    Add,
    Added,
    Found,
    Get,
    History,
    ListAll,
    MemberAdd,
    MemberAdded,
    Page,
    RegistryRefusal,
    Watch,
)
from overlay.revision import SignedRevision
from registry.errors import (
    NoSuchService,
    NotOwner,
    RegistryError,
    RevisionConflict,
    StoreFull,
    StoreUnavailable,
    WrongGeneration,
)
from registry.etcd import EtcdStore
from registry.etcd_cluster import add_member
from registry.feed import Feed, pages
from registry.store import Store

PEER_RATE, PEER_BURST = 200.0, 1000.0
"""Calls of one peer: twice what a daemon asks for itself; a program that adds all its services at
once has them added within the burst."""

Request = Get | ListAll | History | Add | Watch | MemberAdd
Answer = BaseModel | AsyncGenerator[Page, None]

log = structlog.get_logger()


class RegistryMetrics:
    """The registry's series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "myxo_registry_requests",
            "Calls from peers by method and result.",
            ["method", "result"],
            registry=registry,
        )
        self.watchers = Gauge(
            "myxo_registry_watchers", "Peers that follow the definitions.", registry=registry
        )
        self.services = Gauge(
            "myxo_registry_services", "Services that are defined.", registry=registry
        )


class RegistryProtocol:
    """Serves `/myxo/registry/1.0.0`; refuses as unavailable until it is given a store.

    Args:
        metrics: counts what is served.
        is_registry: whether a peer is a registry, which alone may add etcd members.
    """

    def __init__(self, metrics: RegistryMetrics, is_registry: Callable[[PeerId], bool]) -> None:
        self._metrics = metrics
        self._is_registry = is_registry
        self._paces: Buckets[PeerId] = Buckets()
        self._lookups = Lookups()
        self._store: Store | None = None
        self._feed: Feed | None = None

    def open(self, store: Store, feed: Feed) -> None:
        """Begin to answer, from this store."""
        self._store, self._feed = store, feed
        self._metrics.services.set_function(lambda: len(feed))

    async def serve(self, peer: PeerId, request: Request) -> Answer:
        """Answer one request.

        Raises:
            CallRefused: with one of the codes of `RegistryRefusal`.
        """
        result = "ok"
        try:
            with _explained():
                return await self._serve(peer, request)
        except CallRefused as exc:
            result = exc.code
            raise
        finally:
            self._metrics.requests.labels(request.op, result).inc()

    async def _serve(self, peer: PeerId, request: Request) -> Answer:
        store, feed = self._opened()
        wait_s = self._paces.take(peer, trio.current_time(), rate=PEER_RATE, burst=PEER_BURST)
        if wait_s:
            raise CallRefused(
                RegistryRefusal.BUSY,
                f"this peer asks more than {PEER_RATE:g} times a second; again in {wait_s:.1f} s",
            )
        match request:
            case Get(name=name):
                return await self._get(store, feed, service_name(name))
            case ListAll():
                listing = await store.listing()
                return _stream(pages(store.store_id, listing.store_revision, listing.revisions))
            case History(name=name):
                return await self._history(store, feed, service_name(name))
            case Add(revision=signed):
                return await self._add(store, peer, SignedRevision.verified(signed))
            case Watch():
                return self._watch(store, feed, request)
            case MemberAdd():
                return await self._member_add(store, peer, request)
            case _:
                assert_never(request)

    def _opened(self) -> tuple[Store, Feed]:
        if self._store is None or self._feed is None:
            raise StoreUnavailable("this registry-service is still starting; try again")
        return self._store, self._feed

    async def _get(self, store: Store, feed: Feed, name: ServiceName) -> Found:
        found = await store.get(name)
        if found is None:
            raise self._unknown(name, feed)
        return Found(revision=found.signed)

    async def _history(self, store: Store, feed: Feed, name: ServiceName) -> Answer:
        found = await store.history(name)
        if not found:
            raise self._unknown(name, feed)
        return _stream(pages(store.store_id, feed.head, found))

    async def _add(self, store: Store, peer: PeerId, offered: SignedRevision) -> Added:
        store_revision = await store.add(offered)
        revision = offered.revision
        log.info(
            "service.deleted" if revision.spec is None else "service.added",
            service=revision.name,
            revision=revision.number,
            owner=offered.owner,
            peer=peer,
        )
        return Added(store_revision=store_revision)

    async def _watch(self, store: Store, feed: Feed, request: Watch) -> AsyncGenerator[Page, None]:
        self._metrics.watchers.inc()
        try:
            after = request.after if await _continues(store, feed, request) else -1
            if after >= 0:
                yield Page(store=store.store_id, store_revision=after)
            while True:
                changes = feed.since(after) if after >= 0 else None
                if changes is None:
                    after = feed.head
                    for page in feed.snapshot():
                        yield page
                elif changes:
                    after = changes[-1].store_revision
                    for page in pages(store.store_id, after, (c.revision for c in changes)):
                        yield page
                elif not await _changed_in_time(feed):
                    yield Page(store=store.store_id, store_revision=after)
        finally:
            self._metrics.watchers.dec()

    async def _member_add(self, store: Store, peer: PeerId, request: MemberAdd) -> MemberAdded:
        if not isinstance(store, EtcdStore):
            raise CallRefused(RegistryRefusal.NO_ETCD, "this registry-service keeps SQLite")
        if not self._is_registry(peer):
            raise CallRefused(
                RegistryRefusal.NOT_ALLOWED, "only a registry-service may add an etcd member"
            )
        cluster = await add_member(store.gateway, request.name, request.peer_url)
        log.info("etcd.member_added", name=request.name, peer_url=request.peer_url, peer=peer)
        return MemberAdded(initial_cluster=cluster)

    def _unknown(self, name: ServiceName, feed: Feed) -> CallRefused:
        near = self._lookups.hint(lambda: near_names(name, feed.names()), trio.current_time())
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return CallRefused(
            RegistryRefusal.UNKNOWN, f"there is no service {name}{hint}", {"near": list(near)}
        )


async def _continues(store: Store, feed: Feed, request: Watch) -> bool:
    """Whether what the watcher holds is an earlier state of this store."""
    if request.store != store.store_id or request.after == 0:
        return False
    if request.after <= feed.head:
        return True
    # The watcher comes from a registry peer that was ahead of this one, or the store was set back.
    return (await store.listing()).store_revision >= request.after


async def _changed_in_time(feed: Feed) -> bool:
    with trio.move_on_after(HEARTBEAT_S):
        await feed.changed()
        return True
    return False


async def _stream(items: Iterator[Page]) -> AsyncGenerator[Page, None]:
    for item in items:
        yield item


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what goes wrong into the refusal that the caller can act on."""
    try:
        yield
    except InvalidName as exc:
        raise CallRefused(RegistryRefusal.BAD_NAME, str(exc)) from exc
    except (MalformedMessage, SignatureInvalid) as exc:
        raise CallRefused(RegistryRefusal.BAD_REVISION, str(exc)) from exc
    except RegistryError as exc:
        code, details = _code(exc)
        raise CallRefused(code, str(exc), details) from exc


def _code(exc: RegistryError) -> tuple[RegistryRefusal, dict[str, Any]]:
    match exc:
        case RevisionConflict(newest=newest):
            return RegistryRefusal.CONFLICT, {"newest": newest}
        case NotOwner(owner=owner):
            return RegistryRefusal.NOT_OWNER, {"owner": owner}
        case NoSuchService():
            return RegistryRefusal.UNKNOWN, {}
        case WrongGeneration():
            return RegistryRefusal.BAD_REVISION, {}
        case StoreFull():
            return RegistryRefusal.FULL, {}
        case _:
            return RegistryRefusal.UNAVAILABLE, {}
