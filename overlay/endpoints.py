"""Where datagrams to each peer go, and whether they get through at all.

A peer's record lists addresses; which of them reaches it depends on where one stands. They are
tried in turn until something sent to one is answered. From then on the peer is at the address that
its last authentic datagram came from, so that it may move (a lease that is renewed, a NAT that
forgets) and everybody follows it, as WireGuard's endpoints do.

UDP may be blocked where TCP is not. What stays unanswered is counted: after `DOUBT_AFTER` in a row
the caller is told to send the same by a stream too, and the addresses are tried anew; after
`TRIES` at each of them UDP is given up and only knocked at, at intervals that double. Anything that
arrives from the peer, or a change of its addresses, begins again.

Hearing a peer proves that its datagrams arrive here, not that ours arrive there: only answers do.
But it does prove that the peer holds this one's record. One that became known a moment ago and was
never heard is a *stranger*, which may not.

Pure: the shell in `udp.py` has the sockets.
"""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from overlay.addresses import InvalidAddress, parse_address
from overlay.names import PeerId
from overlay.records import MAX_OWNERS, PeerRecord

MAX_CANDIDATES = 8
"""Addresses of a peer that are tried; a machine with more has them for something else."""

DOUBT_AFTER = 2
"""Unanswered datagrams in a row before a stream is used beside: at 5 % loss each way, one probe in
a hundred comes so far."""

TRIES = 3
"""Datagrams to each address before UDP is given up: at 5 % loss all are lost once in a thousand."""

RETRY_FIRST_S = 10.0
RETRY_MOST_S = 60.0
"""A datagram a minute is no load, and who was cut off for an hour is found again in a minute."""


STRANGER_S = 5.0
"""How long a peer may lack this one's record after the two could have it: longer than streams take
to bring it over slow lines. It costs a datagram with each probe in that time."""


class Endpoint(NamedTuple):
    """An IP address and a UDP port."""

    host: str
    port: int


class Reach(StrEnum):
    """Whether datagrams to a peer get through."""

    UNTRIED = "untried"
    OPEN = "open"
    SHUT = "shut"


@dataclass(frozen=True, slots=True)
class Way:
    """Where a datagram is to be sent, and whether that will do.

    Attributes:
        endpoint: None: nowhere.
        sure: whether the last ones were answered; else it is to go by a stream as well.
        stranger: whether the peer may not be able to open it yet.
    """

    endpoint: Endpoint | None
    sure: bool
    stranger: bool = False


_BROADCAST = "255.255.255.255"
_NOWHERE = Way(None, sure=False)


@dataclass(slots=True)
class _Peer:
    candidates: tuple[Endpoint, ...]
    known_at: float
    heard_from: Endpoint | None = None
    answered: bool = False
    unanswered: int = 0
    retry_at: float = 0.0
    retry_s: float = RETRY_FIRST_S

    @property
    def places(self) -> tuple[Endpoint, ...]:
        """Where the peer may be, the likeliest first."""
        if self.heard_from is None:
            return self.candidates
        others = [place for place in self.candidates if place != self.heard_from]
        return (self.heard_from, *others)

    @property
    def sure(self) -> bool:
        return self.answered and self.unanswered < DOUBT_AFTER

    @property
    def given_up(self) -> bool:
        return self.unanswered >= DOUBT_AFTER + TRIES * len(self.places)

    def is_stranger(self, now: float) -> bool:
        return self.heard_from is None and now < self.known_at + STRANGER_S

    def hope(self) -> None:
        """Try all places again."""
        self.unanswered = min(self.unanswered, DOUBT_AFTER)
        self.retry_s = RETRY_FIRST_S

    def sent(self, now: float) -> None:
        """Count what is sent and wants an answer."""
        self.unanswered += 1
        if self.given_up:
            self.retry_at = now + self.retry_s
            self.retry_s = min(2 * self.retry_s, RETRY_MOST_S)


class Endpoints:
    """The addresses of the peers that datagrams are exchanged with."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, _Peer] = {}

    def know(self, peer: PeerId, candidates: Iterable[Endpoint], now: float) -> None:
        """Take in at `now` where `peer` may be, the likeliest first."""
        places = tuple(dict.fromkeys(candidates))[:MAX_CANDIDATES]
        known = self._peers.get(peer)
        if known is None:
            self._peers[peer] = _Peer(places, now)
            while len(self._peers) > MAX_OWNERS:
                del self._peers[next(iter(self._peers))]
        elif known.candidates != places:
            known.candidates = places
            known.hope()

    def restarted(self, peer: PeerId, now: float) -> None:
        """Take in at `now` that `peer` is another process, of which nothing was heard yet."""
        known = self._peers.get(peer)
        if known is not None:
            self._peers[peer] = _Peer(known.candidates, now)

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of `peer`."""
        self._peers.pop(peer, None)

    def heard(self, peer: PeerId, endpoint: Endpoint) -> None:
        """Take in that an authentic datagram of `peer` came from `endpoint`."""
        known = self._peers.get(peer)
        if known is not None:
            if known.given_up:
                known.hope()
            known.heard_from = endpoint

    def answered(self, peer: PeerId) -> None:
        """Take in that what was last heard of `peer` answers a datagram."""
        known = self._peers.get(peer)
        if known is not None:
            known.answered, known.unanswered = True, 0
            known.retry_s = RETRY_FIRST_S

    def way(self, peer: PeerId, now: float, *, wants_answer: bool) -> Way:
        """Return where to send what is to be sent to `peer` now, which then counts as sent.

        Args:
            peer: the receiver.
            now: seconds on any clock that only goes forward.
            wants_answer: whether silence will mean that it did not arrive.
        """
        known = self._peers.get(peer)
        if known is None or not known.places:
            return _NOWHERE
        if not wants_answer:
            return Way(known.places[0], known.sure)
        if known.given_up and now < known.retry_at:
            return _NOWHERE
        sure, turn, stranger = known.sure, known.unanswered, known.is_stranger(now)
        if known.answered:
            turn = max(0, turn - DOUBT_AFTER)
        known.sent(now)
        return Way(known.places[turn % len(known.places)], sure, stranger)

    def reach(self, peer: PeerId) -> Reach:
        """Return whether datagrams to `peer` get through."""
        known = self._peers.get(peer)
        if known is None or not (known.answered or known.given_up):
            return Reach.UNTRIED
        return Reach.SHUT if known.given_up else Reach.OPEN


def candidates(record: PeerRecord, also: Iterable[str] = ()) -> tuple[Endpoint, ...]:
    """Return where a peer says that it receives datagrams: its addresses, at its datagram port.

    Args:
        record: what it says of itself.
        also: further IP addresses, likelier than those, such as where its connection comes from.
    """
    if not record.datagram_port:
        return ()
    hosts = list(also)
    for address in record.addresses:
        with suppress(InvalidAddress):  # of a kind that a newer Myxo may speak
            parsed = parse_address(address)
            if parsed.relay is None:  # a circuit's host is the relay's
                hosts.append(parsed.host)
    places = dict.fromkeys(_usable(hosts))
    return tuple(Endpoint(host, record.datagram_port) for host in places)[:MAX_CANDIDATES]


def _usable(hosts: Iterable[str]) -> Iterable[str]:
    """Yield the addresses of one machine each; names are known by the connection's address."""
    for host in hosts:
        with suppress(ValueError):
            ip = ipaddress.ip_address(host)
            if not (ip.is_multicast or ip.is_unspecified or host == _BROADCAST):
                yield str(ip)
