"""What a worker is told of what the daemon knows: everything at first, then what has changed.

Pure, but that it reads what it is given.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from overlay.mirroring import Feed
from overlay.names import ServiceName
from overlay.passphrase import NetworkKeys
from overlay.registry_messages import Page
from overlay.revision import SignedRevision
from overlay.view import View
from proxy.ranking.routing_table import RoutingRecord, RoutingTable
from proxy.workers.messages import Authority, Defined, Keys, Routed, Told

TOLD_AT_ONCE = 64
"""News in one message: a worker looks at the whole view after each."""


class Definitions(Protocol):
    """What the feed reads of definitions."""

    def contents(self) -> tuple[str, int, tuple[SignedRevision, ...]]:
        """Return the store, the store revision, and the newest revision of each service."""
        ...


class DefinitionsFeed:
    """Says which definitions are news; a deletion is told by telling all that is left."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._sent: dict[ServiceName, SignedRevision] = {}
        self._store: str | None = None

    def news(self) -> Iterator[Defined]:
        """Yield what brings a replica up to date, in order."""
        store, store_revision, revisions = self._definitions.contents()
        held = {revision.revision.name: revision for revision in revisions}
        whole = store != self._store or bool(self._sent.keys() - held.keys())
        told = {} if whole else self._sent
        fresh = [r for name, r in held.items() if told.get(name) is not r]
        self._sent, self._store = held, store
        if not whole and not fresh:
            return
        for revision in fresh:
            page = Page(store=store, complete=False, snapshot=whole, revisions=(revision.signed,))
            yield Defined(page=page)
        yield Defined(page=Page(store=store, store_revision=store_revision, snapshot=whole))


class RoutesFeed:
    """Says what has changed in a routing table."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._sent: dict[ServiceName, RoutingRecord] = {}

    def news(self) -> Iterator[Routed]:
        """Yield each service whose record is another one, or gone."""
        held = {record.service: record for record in self._table.records()}
        gone = self._sent.keys() - held.keys()
        fresh = [r for service, r in held.items() if self._sent.get(service) is not r]
        self._sent = held
        for service in gone:
            yield Routed(service=service)
        for record in fresh:
            yield Routed(service=record.service, hosts=record.hosts, weights=record.weights)


class Feeds:
    """All of it, for one worker."""

    def __init__(self, view: View, definitions: Definitions, routes: RoutingTable) -> None:
        self._view = Feed(view)
        self._definitions = DefinitionsFeed(definitions)
        self._routes = RoutesFeed(routes)

    def news(self) -> Iterator[Told | Defined | Routed]:
        """Yield what is news, in order."""
        news = self._view.news()
        while at_once := tuple(islice(news, TOLD_AT_ONCE)):
            yield Told(news=at_once)
        yield from self._definitions.news()
        yield from self._routes.news()


def keys_message(keys: NetworkKeys, also: Iterable[NetworkKeys]) -> Keys:
    """Return what a worker is told of the network's keys."""
    return Keys(
        network_id=keys.network_id,
        own=_authority(keys),
        also=tuple(_authority(other) for other in also),
    )


def keys_of(message: Keys) -> tuple[NetworkKeys, list[NetworkKeys]]:
    """Return the keys in force and the others that are trusted, as far as a worker has them."""
    made = [_keys(message.network_id, one) for one in (message.own, *message.also)]
    return made[0], made[1:]


def _authority(keys: NetworkKeys) -> Authority:
    return Authority(ca_seed=keys.ca_seed, passphrase_id=keys.passphrase_id)


def _keys(network_id: str, authority: Authority) -> NetworkKeys:
    return NetworkKeys(
        psk=None,
        ca_seed=authority.ca_seed,
        network_id=network_id,
        passphrase_id=authority.passphrase_id,
        member_key=b"",
        announcement_key=b"",
    )
