"""How records get to a simulated peer and from it: `mesh.py` and `repair.py` of the overlay.

One liberty is taken: what a newcomer is told of all members comes in one message.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.sim.network import Network
from bench.sim.streams import (
    Connection,
    Enclosed,
    Everything,
    Farewell,
    Hello,
    Items,
    Records,
    StreamMessage,
    Summary,
    Versions,
    Want,
)
from bench.sim.table import peer_key
from overlay.datagrams import updates_room
from overlay.digest import Key, Stamp, bucket_of, empty_buckets
from overlay.entrances import REDIAL_FIRST_S, REDIAL_MOST_S
from overlay.gossip import BUCKETS_PER_COMPARISON
from overlay.membership import Alive, Gossip
from overlay.mesh import GREETING_S, REPAIR_S
from overlay.names import PeerId

if TYPE_CHECKING:
    from bench.sim.peer import Peer

UPDATES_PER_FRAME = updates_room(Gossip()) // Alive.SIZE
"""Signed ones that fit a datagram."""

FORWARDERS = 2
"""The first so many peers stand for bootstrap nodes, which pass news on in small networks too."""


class Gossiping:
    """What one peer says over its streams, and takes from them."""

    __slots__ = ("_counter", "_links", "_network", "_peer")

    def __init__(self, peer: "Peer", network: Network) -> None:
        self._peer = peer
        self._network = network
        self._links = peer.links
        self._counter = 0

    def start(self) -> None:
        """Compare digests now and then; find the network, if it is not known."""
        self._peer.later(self._pause(), self._repair)
        if self._is_newcomer:
            self._links.settled = False
            self._join(REDIAL_FIRST_S)

    def publish(self, name: str) -> tuple[Key, Stamp]:
        """Say something new of one of the peer's instances; return its record."""
        self._counter += 1
        key, stamp = (self._peer.id, "instance", name), (self._peer.epoch, self._counter)
        self._peer.table.put(key, stamp)
        self._peer.table.count(self._peer.id, member=True)
        self.tell(Records(((key, stamp),)))
        return key, stamp

    def tell(self, message: StreamMessage, but: PeerId | None = None) -> None:
        """Post a message to every neighbour."""
        for peer in self._links.neighbours():
            if peer != but:
                self._links.post(peer, message)

    def ask(self, source: PeerId, peers: Iterable[PeerId]) -> None:
        """Ask a neighbour for the records of peers that it spoke of."""
        keys = tuple(peer_key(peer) for peer in peers)
        if keys:
            self._links.post(source, Want(keys))

    def greet(self, peer: PeerId, *, chosen: bool) -> None:
        """Say what a stream begins with."""
        table = self._peer.table
        summary = None if self._is_newcomer else table.summary()
        self._links.post(peer, Hello(chosen, summary))
        self._post_records(peer, list(table.of(self._peer.id)))

    def hear(self, peer: PeerId, connection: Connection, message: StreamMessage) -> None:
        """Take in what came over a connection."""
        if not self._links.is_connected(peer, connection):
            return
        match message:
            case Enclosed():
                self._peer.hear(peer, message.message, message.updates, reliable=True)
            case Records():
                self._take(peer, message.versions)
            case Farewell():
                self._links.fell_silent(peer)
            case Hello():
                self._greeted(peer, message)
            case Everything():
                self._initiated(peer, message)
            case Summary() | Items() | Want() if not self._is_newcomer:
                self._compare(peer, message)

    @property
    def _is_newcomer(self) -> bool:
        """Whether this peer has not been told everything yet."""
        return not self._peer.table.founding.stamps

    # joining

    def _join(self, delay: float) -> None:
        """Ask bootstrap nodes until one has told everything, and again whenever nobody is there.

        The network need not know this process: the one that told it everything may have been cut
        off with it, and be gone by now.
        """
        is_in = not self._is_newcomer and bool(self._links.neighbours())
        bootstrap = None if is_in else self._network.bootstrap(self._peer)
        if bootstrap is not None:
            self._links.connect(bootstrap)
        again = REDIAL_FIRST_S if is_in else min(2 * delay, REDIAL_MOST_S)
        self._peer.later(REDIAL_MOST_S if is_in else delay, self._join, again)

    def _greeted(self, peer: PeerId, hello: Hello) -> None:
        self._links.told_choice(peer, chosen=hello.chosen)
        if not self._is_newcomer and hello.summary is not None:
            self._answer_summary(peer, hello.summary, limit=None)
        elif not self._is_newcomer:
            members = (self._peer.id, *self._peer.membership.members())
            self._links.post(peer, Everything(members, tuple(self._peer.table.counting())))
        self._peer.probe(peer)

    def _initiated(self, source: PeerId, everything: Everything) -> None:
        table = self._peer.table
        if self._is_newcomer:
            table.founding = self._network.founding
            members = {self._peer.id, *everything.members}
            for owner, _, _ in table.founding.stamps:
                if owner not in members and not self._peer.is_member(owner):
                    table.count(owner, member=False)
        self._take(source, everything.versions)
        for owner in everything.members:
            stamp = table.stamp(peer_key(owner))
            if stamp is not None and owner != self._peer.id:
                self._peer.learn(owner, stamp[0])
        self._links.reconsider()
        self._peer.later(GREETING_S, self._links.settle)

    # news

    def _take(self, source: PeerId, versions: Versions) -> None:
        peer, table = self._peer, self._peer.table
        news = []
        for key, stamp in versions:
            owner = key[0]
            if owner == peer.id:
                continue
            is_news = table.put(key, stamp)
            if is_news:
                news.append((key, stamp))
                self._network.learned(peer, key, stamp)
            if key[1] == "peer":
                peer.learn(owner, stamp[0])
            if is_news and peer.is_member(owner):
                table.count(owner, member=True)
        if news and (self._links.is_large or peer.index < FORWARDERS):
            self.tell(Records(tuple(news)), but=source)

    def _post_records(self, peer: PeerId, versions: Sequence[tuple[Key, Stamp]]) -> None:
        if versions:
            self._links.post(peer, Records(tuple(versions)))

    # comparing

    def _repair(self) -> None:
        """Compare digests with a random neighbour."""
        self._peer.later(self._pause(), self._repair)
        members = sorted(filter(self._peer.is_member, self._links.neighbours()))
        if members and not self._is_newcomer:
            self._links.post(self._peer.rng.choice(members), Summary(self._peer.table.summary()))

    def _pause(self) -> float:
        return REPAIR_S * self._peer.rng.uniform(0.5, 1.5)

    def _compare(self, peer: PeerId, message: Summary | Items | Want) -> None:
        match message:
            case Summary():
                self._answer_summary(peer, message.summary, limit=BUCKETS_PER_COMPARISON)
            case Items():
                self._answer_items(peer, message)
            case Want():
                self._answer_want(peer, message.keys)

    def _answer_summary(self, peer: PeerId, summary: bytes, limit: int | None) -> None:
        table = self._peer.table
        empty = empty_buckets(summary)
        differing = table.differing(summary)
        lacked = [n for n in differing if n in empty and not table.founding.bucket(n)]
        self._post_records(peer, [item for n in lacked for item in table.items(n).items()])
        listed = [n for n in differing if n not in lacked]
        if limit is not None and len(listed) > limit:
            listed = self._peer.rng.sample(listed, limit)
        for first in range(0, len(listed), BUCKETS_PER_COMPARISON):
            some = listed[first : first + BUCKETS_PER_COMPARISON]
            held = tuple(item for n in some for item in table.items(n).items())
            self._links.post(peer, Items(tuple(some), held))

    def _answer_items(self, peer: PeerId, items: Items) -> None:
        table = self._peer.table
        theirs: dict[Key, Stamp] = dict(items.versions)
        mine = {key: stamp for n in items.buckets for key, stamp in table.items(n).items()}
        lacked = [(k, s) for k, s in mine.items() if k not in theirs or theirs[k] < s]
        self._post_records(peer, lacked)
        wanted = [
            key
            for key, stamp in theirs.items()
            if bucket_of(key[0]) in items.buckets and (key not in mine or mine[key] < stamp)
        ]
        self._tell_states(peer, dict.fromkeys(key[0] for key in wanted))
        if wanted:
            self._links.post(peer, Want(tuple(wanted)))

    def _answer_want(self, peer: PeerId, keys: Sequence[Key]) -> None:
        stamps = [(key, self._peer.table.stamp(key)) for key in keys]
        held = [(k, s) for k, s in stamps if s is not None and self._peer.is_member(k[0])]
        self._post_records(peer, held)

    def _tell_states(self, peer: PeerId, owners: Iterable[PeerId]) -> None:
        strangers = [owner for owner in owners if not self._peer.is_member(owner)]
        updates = self._peer.membership.digest_updates(strangers)
        for first in range(0, len(updates), UPDATES_PER_FRAME):
            some = tuple(updates[first : first + UPDATES_PER_FRAME])
            self._links.post(peer, Enclosed(Gossip(), some))
