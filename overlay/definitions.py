"""The replica of all definitions that every proxy and allocator holds, and its one road to news.

A watch on the nearest registry peer keeps it fresh by push; it is kept on disk, so that a restarted
daemon serves what it knew while no registry answers. The registry is on a request's way only for a
name that the replica does not have yet, and then once for all requests that wait for it.
"""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import structlog
import trio
from pydantic import BaseModel

from overlay.calls import Caller, CallRefused
from overlay.errors import (
    MalformedMessage,
    MyxoError,
    PeerUnreachable,
    ProtocolRefused,
    SignatureInvalid,
)
from overlay.lookups import Lookups
from overlay.names import PeerId, ServiceName, near_names
from overlay.passphrase import NetworkKeys
from overlay.records import Role
from overlay.registry_messages import (
    HEARTBEAT_S,
    MAX_DEFINITION_BYTES,
    MAX_DEFINITIONS,
    REGISTRY_PROTOCOL,
    Found,
    Get,
    Page,
    RegistryRefusal,
    Watch,
)
from overlay.revision import SignedRevision
from overlay.view import PeerView

RESOLVE_TIMEOUT_S = 3.0
"""Of one registry peer's answer to a name that is not in the replica."""

SILENCE_S = 2.5 * HEARTBEAT_S
"""A watch that says nothing for so long is dead, whatever its connection looks like."""

RETRY_FIRST_S = 0.2
RETRY_MOST_S = 5.0

PERSIST_EVERY_S = 1.0
"""Changes that come together are written together; what is lost is sent again by the watch."""

log = structlog.get_logger()


class LookupsBusy(MyxoError):
    """The name is not known here, and too many such names were asked for lately to ask again.

    Attributes:
        retry_after_s: when asking again makes sense, in seconds.
    """

    def __init__(self, name: ServiceName, retry_after_s: float) -> None:
        self.name = name
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{name} is not known here, and names that are not known were asked for too often; "
            "try again in a moment"
        )


class UnknownService(MyxoError):
    """A registry says that there is no such service.

    Attributes:
        name: what was asked for.
        near: known names that it may be a slip of, closest first.
    """

    def __init__(self, name: ServiceName, near: Sequence[ServiceName]) -> None:
        self.name = name
        self.near = near
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"there is no service {name}{hint}")


class RegistryUnreachable(MyxoError):
    """The name is not in the replica and no registry peer can be asked.

    Attributes:
        retry_after_s: when asking again makes sense, in seconds.
    """

    def __init__(self, name: ServiceName, retry_after_s: float = 2.0) -> None:
        self.name = name
        self.retry_after_s = retry_after_s
        super().__init__(f"{name} is not known here and no registry-service can be reached")


class _View(Protocol):
    def peers(self, role: Role | None = None) -> list[PeerView]: ...


class DefinitionsNode(Protocol):
    """What the replica needs of the node that it lives in."""

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        ...

    @property
    def keys(self) -> NetworkKeys:
        """Tells networks apart."""
        ...

    @property
    def calls(self) -> Caller:
        """Makes calls to peers."""
        ...

    @property
    def view(self) -> _View:
        """Knows the registry peers, the nearest first."""
        ...

    async def changed(self) -> None:
        """Wait for the next change of the view."""
        ...


@dataclass(slots=True)
class Replica:
    """The newest revision of each service, as of one store revision. Pure.

    Attributes:
        store: the store that it follows.
        store_revision: it has everything up to here.
    """

    store: str = ""
    store_revision: int = 0
    _by_name: dict[ServiceName, SignedRevision] = field(default_factory=dict)
    _arriving: dict[ServiceName, SignedRevision] | None = None
    _deleted: dict[ServiceName, int] = field(default_factory=dict)
    _size: int = 0

    def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest known revision of a service."""
        return self._by_name.get(name)

    def deleted(self, name: ServiceName) -> bool:
        """Whether the owner's deletion of a service was heard, and nothing newer since."""
        return name in self._deleted and name not in self._by_name

    def names(self) -> list[ServiceName]:
        """Return every known service."""
        return list(self._by_name)

    def contents(self) -> tuple[str, int, tuple[SignedRevision, ...]]:
        """Return the store, the store revision, and the newest revision of each service."""
        return self.store, self.store_revision, tuple(self._by_name.values())

    @classmethod
    def of(cls, store: str, store_revision: int, revisions: Iterable[SignedRevision]) -> Self:
        """Return the replica with these contents."""
        replica = cls(store, store_revision)
        for revision in revisions:
            replica.take(revision)
        return replica

    def take(self, revision: SignedRevision) -> bool:
        """Take in one revision; return whether it was news."""
        name, number = revision.revision.name, revision.revision.number
        known = self._by_name.get(name)
        newest = known.revision.number if known is not None else self._deleted.get(name, 0)
        if newest >= number:
            return False
        if revision.revision.spec is None:
            self._deleted.pop(name, None)
            self._deleted[name] = number
            if len(self._deleted) > MAX_DEFINITIONS:
                del self._deleted[next(iter(self._deleted))]
        return self._put(self._by_name, revision)

    def take_page(self, page: Page) -> bool:
        """Take in what a watch sent; return whether definitions may have changed.

        A snapshot replaces everything at once when its last page is here.

        Raises:
            MalformedMessage, SignatureInvalid: it holds something that no owner signed.
        """
        revisions = [SignedRevision.verified(signed) for signed in page.revisions]
        if page.snapshot and self._arriving is None:
            self._arriving, self._size = {}, 0
        news = False
        for revision in revisions:
            if self._arriving is None:
                news |= self.take(revision)
            else:
                self._put(self._arriving, revision)
        if page.complete:
            if self._arriving is not None:
                if page.store == self.store:
                    self._keep_newer(self._arriving)
                self._by_name, self._arriving, news = self._arriving, None, True
                self._deleted.clear()
            self.store, self.store_revision = page.store, page.store_revision
        return news

    def _keep_newer(self, arriving: dict[ServiceName, SignedRevision]) -> None:
        """Keep what is newer here: within one store a number never falls, whoever says so."""
        for name, held in self._by_name.items():
            offered = arriving.get(name)
            if offered is not None and offered.revision.number < held.revision.number:
                self._put(arriving, held)

    def begin(self) -> None:
        """Forget a snapshot of which only a part came."""
        if self._arriving is not None:
            self._arriving = None
            self._size = sum(len(r.signed.payload) for r in self._by_name.values())

    def _put(self, into: dict[ServiceName, SignedRevision], revision: SignedRevision) -> bool:
        name = revision.revision.name
        old = into.pop(name, None)
        self._size -= len(old.signed.payload) if old is not None else 0
        if revision.revision.spec is None:
            return old is not None
        size = len(revision.signed.payload)
        if len(into) >= MAX_DEFINITIONS or self._size + size > MAX_DEFINITION_BYTES:
            log.error("definitions.full", name=name, services=len(into), bytes=self._size)
            return old is not None
        into[name] = revision
        self._size += size
        return True


class Definitions:
    """The replica of one daemon; `run` keeps it fresh.

    Args:
        node: the node of the daemon.
        state_dir: below it the replica is kept, in a file of this daemon's own for this network;
            None keeps it in memory only.
    """

    def __init__(self, node: DefinitionsNode, state_dir: Path | None) -> None:
        self._node = node
        file = f"{node.keys.network_id}-{node.peer_id}.jsonl"
        self._path = None if state_dir is None else state_dir / "definitions" / file
        self._replica = _load(self._path)
        self._lookups = Lookups()
        self._asking: dict[ServiceName, _Question] = {}
        self._change = trio.Event()
        self._unwritten = trio.Event()
        self._live = False

    @property
    def live(self) -> bool:
        """Whether a watch on a registry peer is up, so that what is held is the newest."""
        return self._live

    def get(self, name: ServiceName) -> SignedRevision | None:
        """Return the newest known revision of a service, from memory."""
        return self._replica.get(name)

    def deleted(self, name: ServiceName) -> bool:
        """Whether the owner's deletion of a service was heard, and nothing newer since."""
        return self._replica.deleted(name)

    def names(self) -> list[ServiceName]:
        """Return every known service."""
        return self._replica.names()

    def contents(self) -> tuple[str, int, tuple[SignedRevision, ...]]:
        """Return the store, the store revision, and the newest revision of each service."""
        return self._replica.contents()

    def take(self, page: Page) -> None:
        """Take in a page of a watch, which `run` or another process has.

        Raises:
            MalformedMessage, SignatureInvalid: it holds something that no owner signed.
        """
        news = self._replica.take_page(page)
        becomes_live = page.complete and not self._live
        if becomes_live:
            self._live = True
            self._lookups.forget()
            log.info("definitions.live", services=len(self.names()))
        if news or becomes_live:
            self._signal()

    async def changed(self) -> None:
        """Wait for the next change of a definition, or for `live` to become true."""
        await self._change.wait()

    async def resolve(
        self, name: ServiceName, client: str = "", *, ask_again: bool = False
    ) -> SignedRevision:
        """Return a service's newest revision, from memory or else from a registry peer.

        Args:
            name: the service.
            client: whose questions are counted together; see `lookups.py`.
            ask_again: a registry is asked even if it said no a moment ago.

        Raises:
            UnknownService: a registry peer says that there is none.
            RegistryUnreachable: no registry peer answers.
            LookupsBusy: too many unknown names were asked for.
        """
        if (known := self._replica.get(name)) is not None:
            return known
        now = trio.current_time()
        miss = None if ask_again or not self._live else self._lookups.remembered(name, now)
        if miss is not None:
            raise UnknownService(name, miss.near)
        while (question := self._asking.get(name)) is not None:
            await question.answered.wait()
            if (answer := question.answer()) is not None:
                return answer
        if wait_s := self._lookups.wait_s(client, trio.current_time()):
            raise LookupsBusy(name, wait_s)
        question = self._asking[name] = _Question()
        try:
            return await self._answer(question, name)
        finally:
            del self._asking[name]
            question.answered.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the nearest registry peer until cancelled, and keep the replica on disk."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_on_disk)
            task_status.started()
            await self._follow()

    async def _answer(self, question: "_Question", name: ServiceName) -> SignedRevision:
        try:
            question.found = await self._ask(name)
        except MyxoError as exc:
            question.error = exc
            raise
        return question.found

    async def _ask(self, name: ServiceName) -> SignedRevision:
        for peer in self._registries():
            try:
                found = await self._node.calls.call(
                    peer, REGISTRY_PROTOCOL, Get(name=name), Found, timeout_s=RESOLVE_TIMEOUT_S
                )
                revision = SignedRevision.verified(found.revision)
            except CallRefused as exc:
                if exc.code == RegistryRefusal.UNKNOWN:
                    raise self._unknown(name) from exc
                log.info("definitions.refused", peer=peer, code=exc.code, error=exc.text)
            except (PeerUnreachable, ProtocolRefused, MalformedMessage, SignatureInvalid) as exc:
                log.info("definitions.peer_failed", peer=peer, error=str(exc))
            else:
                return self._accept(name, revision)
        raise RegistryUnreachable(name)

    def _accept(self, name: ServiceName, revision: SignedRevision) -> SignedRevision:
        if revision.revision.name != name or revision.revision.spec is None:
            raise self._unknown(name)
        if self._replica.take(revision):
            self._signal()
        return self._replica.get(name) or revision

    def _unknown(self, name: ServiceName) -> UnknownService:
        now = trio.current_time()
        near = self._lookups.hint(lambda: near_names(name, self.names()), now)
        self._lookups.missed(name, near, now)
        return UnknownService(name, near)

    async def _follow(self) -> None:
        delay = RETRY_FIRST_S
        while True:
            for peer in self._registries():
                if await self._follow_one(peer):
                    delay = RETRY_FIRST_S
                    break
            wait_s = delay * random.uniform(0.5, 1)  # noqa: S311  (spreads peers, no secret)
            if self._registries():
                await trio.sleep(wait_s)
            else:
                with trio.move_on_after(wait_s):
                    await self._node.changed()
            delay = min(delay * 2, RETRY_MOST_S)

    async def _follow_one(self, peer: PeerId) -> bool:
        """Follow one registry peer until its watch ends; return whether it ever told anything."""
        heard = False
        self._replica.begin()
        watch = Watch(store=self._replica.store, after=self._replica.store_revision)
        try:
            async with self._node.calls.stream(peer, REGISTRY_PROTOCOL, watch, Page) as pages:
                while True:
                    with trio.fail_after(SILENCE_S):
                        page = await anext(pages, None)
                    if page is None:
                        break
                    heard = True
                    self.take(page)
        except trio.TooSlowError:
            log.warning("definitions.watch_silent", peer=peer, silence_s=SILENCE_S)
        except MyxoError as exc:
            log.info("definitions.watch_ended", peer=peer, error=str(exc))
        finally:
            self._live = False
        return heard

    def _registries(self) -> list[PeerId]:
        return [peer.peer_id for peer in self._node.view.peers(Role.REGISTRY)]

    def _signal(self) -> None:
        self._unwritten.set()
        self._change.set()
        self._change = trio.Event()

    async def _keep_on_disk(self) -> None:
        if self._path is None:
            return
        try:
            while True:
                await self._unwritten.wait()
                await trio.sleep(PERSIST_EVERY_S)
                self._unwritten = trio.Event()
                await trio.to_thread.run_sync(_save, self._path, *self._replica.contents())
        finally:
            if self._unwritten.is_set():
                _save(self._path, *self._replica.contents())


@dataclass(slots=True)
class _Question:
    """A name that is being asked for, and all who wait for the answer."""

    answered: trio.Event = field(default_factory=trio.Event)
    found: SignedRevision | None = None
    error: MyxoError | None = None

    def answer(self) -> SignedRevision | None:
        """Return or raise the answer; None where whoever asked gave up before there was one."""
        if self.error is not None:
            raise self.error
        return self.found


class _FileHead(BaseModel):
    """The first line of a replica's file; each further line is a signed revision."""

    format: int = 1
    store: str
    store_revision: int


def _save(
    path: Path, store: str, store_revision: int, revisions: tuple[SignedRevision, ...]
) -> None:
    head = _FileHead(store=store, store_revision=store_revision)
    written = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written.open("wb") as file:
            file.write(head.model_dump_json().encode() + b"\n")
            file.writelines(revision.to_json() + b"\n" for revision in revisions)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
    except OSError as exc:
        log.warning("definitions.not_saved", path=str(path), error=str(exc))


def _load(path: Path | None) -> Replica:
    if path is None or not path.exists():
        return Replica()
    try:
        with path.open("rb") as file:
            head = _FileHead.model_validate_json(file.readline())
            revisions = [SignedRevision.from_json(line) for line in file]
    except (OSError, ValueError, MalformedMessage, SignatureInvalid) as exc:
        log.warning("definitions.not_loaded", path=str(path), error=str(exc))
        return Replica()
    return Replica.of(head.store, head.store_revision, revisions)
