"""A simulated peer's gossip streams: what `mesh.py`, `links.py` and `repair.py` do in the overlay.

Two liberties are taken: what a newcomer is told comes in one message, and in a large network
neighbours are chosen anew only when one of them is gone. The overlay asks more often, but is then
told to keep those it has.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, assert_never

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
from overlay.digest import Key, Stamp, bucket_of, empty_buckets
from overlay.names import PeerId
from overlay.neighbours import FULL_MESH, choose
from overlay.swim import Change, Datagram, Gossip, MemberState

if TYPE_CHECKING:
    from bench.sim.peer import Network, Peer

REPAIR_S = 5.0
RECHOOSE_S = 0.2
COURTESY_S = 0.5
REDIAL_FIRST_S, REDIAL_MOST_S = 0.2, 10.0
GREETING_S = 2.0
BUCKETS_PER_COMPARISON = 32
"""As in the overlay."""

UPDATES_PER_FRAME = 11
"""Signed ones that fit a datagram."""

FORWARDERS = 2
"""The first so many peers stand for bootstrap nodes, which pass news on in small networks too."""


class Gossiping:
    """The streams of one peer, and its part in getting records to everybody."""

    __slots__ = (
        "_chosen",
        "_chosen_by",
        "_connections",
        "_counter",
        "_network",
        "_peer",
        "_rechoosing",
        "_seeking",
        "_settled",
        "_streams",
    )

    def __init__(self, peer: "Peer", network: "Network") -> None:
        self._peer = peer
        self._network = network
        self._counter = 0
        self._connections: dict[PeerId, Connection] = {}
        self._streams: dict[PeerId, Connection] = {}
        """Those to neighbours."""
        self._chosen: frozenset[PeerId] = frozenset()
        self._chosen_by: dict[PeerId, None] = {}
        self._seeking: dict[PeerId, None] = {}
        self._rechoosing = False
        self._settled = True

    @property
    def neighbours(self) -> list[PeerId]:
        """Return the peers that there is a stream to."""
        return list(self._streams)

    @property
    def is_large(self) -> bool:
        """Whether not everybody is everybody's neighbour."""
        return self._peer.count_members() > FULL_MESH

    # what the peer does

    def start(self) -> None:
        """Compare digests now and then; find the network, if it is not known."""
        self._later(self._pause(), self._repair)
        if not self._chosen and not any(self._peer.membership.members()):
            self._settled = False
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
        for peer, connection in list(self._streams.items()):
            if peer != but:
                self._network.post(self._peer, connection, message)

    def ask(self, source: PeerId, peers: Iterable[PeerId]) -> None:
        """Ask a neighbour for the records of peers that it spoke of."""
        keys = tuple(peer_key(peer) for peer in peers)
        if keys:
            self._post(source, Want(keys))

    def enclose(self, datagram: Datagram) -> None:
        """Send a datagram over a stream, for which a connection is made if there is none."""
        enclosed = Enclosed(datagram.message, datagram.updates)
        connection = self._connections.get(datagram.to)
        if connection is not None:
            self._network.post(self._peer, connection, enclosed)
            return

        def done(made: Connection | None) -> None:
            if made is not None:
                self._network.post(self._peer, made, enclosed)

        self._network.connect(self._peer, datagram.to, done)

    def changed(self, change: Change) -> None:
        """Take in what the peer now believes of another."""
        if change.state in {MemberState.DEAD, MemberState.LEFT}:
            self.drop(change.peer)
        if not self.is_large or change.peer in self._chosen:
            self._reconsider()

    def drop(self, peer: PeerId) -> None:
        """Have nothing to do with a peer that is gone."""
        self._streams.pop(peer, None)
        self._chosen_by.pop(peer, None)
        connection = self._connections.pop(peer, None)
        if connection is not None:
            self._network.disconnect(connection)

    # connections

    def settled_with(self, chosen: frozenset[PeerId]) -> None:
        """Take these for neighbours, as if they had long been."""
        self._chosen = chosen

    def linked(self, peer: PeerId, connection: Connection, *, chosen_by_it: bool) -> None:
        """Take in a link that has long been there."""
        self._connections[peer] = self._streams[peer] = connection
        if chosen_by_it:
            self._chosen_by[peer] = None

    def connected(self, peer: PeerId, connection: Connection) -> None:
        """Take in that there is a connection to `peer`."""
        self._connections[peer] = connection
        if self._chooses(peer) or not self.is_large:
            self._open(peer)

    def disconnected(self, peer: PeerId, connection: Connection) -> None:
        """Take in that a connection to `peer` has ended."""
        if self._connections.get(peer) is not connection:
            return
        del self._connections[peer]
        self._streams.pop(peer, None)
        self._chosen_by.pop(peer, None)
        self._peer.lost(peer)
        self._reconsider()

    def hear(self, peer: PeerId, connection: Connection, message: StreamMessage) -> None:
        """Take in what came over a connection."""
        if self._connections.get(peer) is not connection:
            return
        match message:
            case Hello():
                self._greeted(peer, message)
            case Everything():
                self._initiated(peer, message)
            case Records():
                self._take(peer, message.versions)
            case Summary() if self._peer.table.founding.stamps:
                self._answer_summary(peer, message.summary, limit=BUCKETS_PER_COMPARISON)
            case Items() if self._peer.table.founding.stamps:
                self._answer_items(peer, message)
            case Summary() | Items():
                pass  # a newcomer that has not been told everything yet
            case Want():
                self._answer_want(peer, message.keys)
            case Enclosed():
                self._peer.hear(peer, message.message, message.updates, reliable=True)
            case Farewell():
                self._chosen_by.pop(peer, None)
                if peer not in self._chosen:
                    self._close(peer)
            case _:
                assert_never(message)

    def _post(self, peer: PeerId, message: StreamMessage) -> None:
        connection = self._streams.get(peer)
        if connection is not None:
            self._network.post(self._peer, connection, message)

    def _chooses(self, peer: PeerId) -> bool:
        return peer in self._chosen or not self._settled

    def _open(self, peer: PeerId) -> None:
        if peer not in self._streams and peer in self._connections:
            self._streams[peer] = self._connections[peer]
            self._greet(peer)

    def _greet(self, peer: PeerId) -> None:
        table = self._peer.table
        summary = table.summary() if table.founding.stamps else None
        self._post(peer, Hello(self._chooses(peer), summary))
        self._post(peer, Records(tuple(table.of(self._peer.id))))

    def _close(self, peer: PeerId) -> None:
        if peer in self._streams:
            self._post(peer, Farewell())
            del self._streams[peer]

    # neighbours

    def _reconsider(self) -> None:
        if not self._rechoosing:
            self._rechoosing = True
            self._later(RECHOOSE_S, self._rechoose)

    def _rechoose(self) -> None:
        self._rechoosing = False
        self._chosen = choose(self._distances(), self._chosen, self._peer.rng)
        for peer in sorted(self._chosen):
            if peer in self._connections:
                self._open(peer)
            elif peer not in self._seeking:
                self._seeking[peer] = None
                wait = COURTESY_S if self._settled else 0.0
                self._later(wait, self._seek, peer, REDIAL_FIRST_S)
        if self._settled and self.is_large:
            self._part()

    def _part(self) -> None:
        for peer in list(self._streams):
            if peer in self._chosen or not self._peer.is_member(peer):
                continue
            if peer in self._chosen_by:
                self._greet(peer)
            else:
                self._close(peer)

    def _seek(self, peer: PeerId, delay: float) -> None:
        """Dial a chosen peer until it is connected or no longer chosen."""
        if peer in self._connections or peer not in self._chosen:
            self._seeking.pop(peer, None)
            return

        def done(made: Connection | None) -> None:
            if made is not None:
                self._seeking.pop(peer, None)
            else:
                self._later(delay, self._seek, peer, min(2 * delay, REDIAL_MOST_S))

        self._network.connect(self._peer, peer, done)

    def _distances(self) -> dict[PeerId, float]:
        membership, coordinates = self._peer.membership, self._peer.coordinates
        distances = {}
        for peer in membership.members():
            rtt, guess = membership.rtt(peer), coordinates.estimate(peer)
            if rtt is not None:
                distances[peer] = rtt.smoothed_rtt
            else:
                distances[peer] = inf if guess is None else guess.rtt_s
        return distances

    def _join(self, delay: float) -> None:
        """Ask bootstrap nodes until one has told everything."""
        if self._peer.table.founding.stamps:
            return
        bootstrap = self._network.bootstrap(self._peer)
        if bootstrap is not None:
            self._network.connect(self._peer, bootstrap, lambda _made: None)
        self._later(delay, self._join, min(2 * delay, REDIAL_MOST_S))

    def _settle(self) -> None:
        self._settled = True
        self._reconsider()

    def _later(self, seconds: float, act: Callable[..., None], *args: Any) -> None:
        """Plan something, which is done if and when this process runs."""
        self._network.at(self._network.now + seconds, self._do, act, *args)

    def _do(self, act: Callable[..., None], *args: Any) -> None:
        if self._peer.up:
            self._peer.take(act, *args)

    # records

    def _greeted(self, peer: PeerId, hello: Hello) -> None:
        self._open(peer)
        if hello.chosen:
            self._chosen_by[peer] = None
        else:
            self._chosen_by.pop(peer, None)
            if self._settled and self.is_large:
                self._reconsider()
        table = self._peer.table
        if hello.summary is not None and table.founding.stamps:
            self._answer_summary(peer, hello.summary, limit=None)
        elif hello.summary is None and table.founding.stamps:
            members = (self._peer.id, *self._peer.membership.members())
            self._post(peer, Everything(members, tuple(table.counting())))
        self._peer.probe(peer)

    def _initiated(self, source: PeerId, everything: Everything) -> None:
        table = self._peer.table
        if not table.founding.stamps:
            table.founding = self._network.founding
            members = {self._peer.id, *everything.members}
            for owner, _, _ in table.founding.stamps:
                if owner not in members:
                    table.count(owner, member=False)
        self._take(source, everything.versions)
        for owner in everything.members:
            stamp = table.stamp(peer_key(owner))
            if stamp is not None and owner != self._peer.id:
                self._peer.learn(owner, stamp[0])
        self._reconsider()
        self._later(GREETING_S, self._settle)

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
        if news and (self.is_large or peer.index < FORWARDERS):
            self.tell(Records(tuple(news)), but=source)

    def _repair(self) -> None:
        """Compare digests with a random neighbour."""
        self._later(self._pause(), self._repair)
        members = sorted(peer for peer in self._streams if self._peer.is_member(peer))
        if members and self._peer.table.founding.stamps:
            self._post(self._peer.rng.choice(members), Summary(self._peer.table.summary()))

    def _pause(self) -> float:
        return REPAIR_S * self._peer.rng.uniform(0.5, 1.5)

    def _answer_summary(self, peer: PeerId, summary: bytes, limit: int | None) -> None:
        table = self._peer.table
        differing = table.differing(summary)
        empty = empty_buckets(summary)
        lacked = [n for n in differing if n in empty and not table.founding.bucket(n)]
        self._post_records(peer, [item for n in lacked for item in table.items(n).items()])
        listed = [n for n in differing if n not in lacked]
        if limit is not None and len(listed) > limit:
            listed = self._peer.rng.sample(listed, limit)
        for first in range(0, len(listed), BUCKETS_PER_COMPARISON):
            some = listed[first : first + BUCKETS_PER_COMPARISON]
            held = tuple(item for n in some for item in table.items(n).items())
            self._post(peer, Items(tuple(some), held))

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
        self._tell_states(peer, dict.fromkeys(k[0] for k in wanted))
        if wanted:
            self._post(peer, Want(tuple(wanted)))

    def _answer_want(self, peer: PeerId, keys: Sequence[Key]) -> None:
        stamps = [(key, self._peer.table.stamp(key)) for key in keys]
        self._post_records(
            peer, [(k, s) for k, s in stamps if s is not None and self._peer.is_member(k[0])]
        )

    def _tell_states(self, peer: PeerId, owners: Iterable[PeerId]) -> None:
        strangers = [owner for owner in owners if not self._peer.is_member(owner)]
        updates = self._peer.membership.digest_updates(strangers)
        for first in range(0, len(updates), UPDATES_PER_FRAME):
            some = tuple(updates[first : first + UPDATES_PER_FRAME])
            self._post(peer, Enclosed(Gossip(), some))

    def _post_records(self, peer: PeerId, versions: Sequence[tuple[Key, Stamp]]) -> None:
        if versions:
            self._post(peer, Records(tuple(versions)))
