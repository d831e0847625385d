"""Seals datagrams pairwise, so that only the two peers read, write or replay what they say.

Each process makes an X25519 key at its start and states the public half in its signed peer record,
which is what ties it to the peer's identity. Two peers that hold each other's records share a
secret (RFC 7748), and from it HKDF-SHA256 (RFC 5869) gives one key for each direction, bound to
both identities, both public keys and the network. No packet is spent on a handshake.

    tag 8 | counter 8 | ChaCha20-Poly1305 of the message (RFC 8439), tag and counter authenticated

The tag names the session, so that the receiver finds it in one lookup. It is a keyed hash of what
the two peers know of each other: telling it costs no Diffie-Hellman exchange, which is made when a
peer is first spoken to. The counter is the nonce. The receiver remembers which of the last
`WINDOW` counters it has seen and takes nothing older (as IPsec does, RFC 4303 section 3.4.3).

A counter is never used twice under one key: a session begins above every counter of those that
were dropped, since it may be the same one, evicted and met again. For the same reason the highest
counter heard in a dropped session is remembered.

A peer that restarts has a new key. Its new session is spoken at once; the old one is listened to
until the new one is first heard.

What does not open is dropped and counted. Nothing is ever answered to it.
"""

import hmac
import struct
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.datagrams import MAX_DATAGRAM_BYTES, MAX_MESSAGE_BYTES, SEAL_BYTES
from overlay.identity import public_key_of
from overlay.names import PeerId
from overlay.records import MAX_OWNERS

KEY_BYTES = 32
"""An X25519 public key."""

MAX_SESSIONS = MAX_OWNERS
"""One for each peer that a view may hold; the least recently used gives way."""

WINDOW = 1024
"""Counters back that are told apart: more datagrams than are on their way between two peers."""

_LABEL = b"myxo/datagram/1"
_HEADER = struct.Struct(">8sQ")
_NONCE = struct.Struct(">4xQ")
_TAG_BYTES = 8


class Dropped(StrEnum):
    """Why a datagram was not opened."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    REPLAYED = "replayed"
    FORGED = "forged"


@dataclass(slots=True)
class ReplayWindow:
    """Which counters were seen, as the highest and a bit for each of the `WINDOW` below it."""

    highest: int = 0
    _seen: int = 1

    @classmethod
    def above(cls, highest: int) -> "ReplayWindow":
        """Return a window that takes nothing up to `highest`."""
        return cls(highest, (1 << WINDOW) - 1)

    def takes(self, counter: int) -> bool:
        """Whether `counter` was not seen yet, as far as can be told."""
        age = self.highest - counter
        return age < 0 or (age < WINDOW and not self._seen >> age & 1)

    def mark(self, counter: int) -> None:
        """Take in that `counter` was seen."""
        ahead = counter - self.highest
        if ahead <= 0:
            self._seen |= 1 << -ahead
            return
        kept = self._seen << ahead if ahead < WINDOW else 0  # not by 2^64 places
        self._seen = (kept | 1) & ((1 << WINDOW) - 1)
        self.highest = counter


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the Diffie-Hellman exchange gives: a cipher for each direction."""

    mine: ChaCha20Poly1305
    theirs: ChaCha20Poly1305


@dataclass(slots=True)
class _Session:
    """One pair of keys: this process's and one of a peer's.

    Attributes:
        their_end: the peer's identity and its key, as they are bound into tags and keys.
        tag: of what is sent.
        their_tag: of what is received.
        counter: the next to be used.
        window: the counters that were received.
        heard: whether anything was.
    """

    peer: PeerId
    public_key: bytes
    their_end: bytes
    tag: bytes
    their_tag: bytes
    counter: int
    window: ReplayWindow
    keys: _Keys | None = None
    heard: bool = False


@dataclass(slots=True)
class _Pair:
    """The session in use with a peer, and the one before until the new one is heard."""

    session: _Session
    before: _Session | None = None


class Sealer:
    """Seals what this process sends to the peers it knows, and opens what they send.

    Args:
        me: this peer.
        network: what only this network's members hold; peers of another network open nothing.
        private_key: this process's; a fresh one if there is none.

    Attributes:
        public_key: what belongs into this peer's record as `datagram_key`.
        dropped: how many datagrams were not opened, by reason.
    """

    def __init__(
        self, me: PeerId, network: bytes, private_key: X25519PrivateKey | None = None
    ) -> None:
        self._private_key = private_key or X25519PrivateKey.generate()
        self.public_key = self._private_key.public_key().public_bytes_raw()
        self.dropped: Counter[Dropped] = Counter()
        self._me = me
        self._my_end = public_key_of(me) + self.public_key
        self._network = network
        self._pairs: OrderedDict[PeerId, _Pair] = OrderedDict()
        self._by_tag: dict[bytes, _Session] = {}
        self._heard: OrderedDict[bytes, int] = OrderedDict()
        self._first_counter = 1

    def know(self, peer: PeerId, public_key: bytes) -> bool:
        """Take in a peer's key from its signed record; one without a key is forgotten.

        Returns:
            Whether this is a session that was not there before.
        """
        if len(public_key) != KEY_BYTES or peer == self._me:
            self.forget(peer)
            return False
        pair = self._pairs.get(peer)
        if pair is not None and pair.session.public_key == public_key:
            return False
        if pair is None:
            self._pairs[peer] = _Pair(self._open_session(peer, public_key))
        else:
            self._renew(pair, public_key)
        while len(self._pairs) > MAX_SESSIONS:
            self.forget(next(iter(self._pairs)))
        return True

    def knows(self, peer: PeerId) -> bool:
        """Whether something can be sealed for `peer`."""
        return peer in self._pairs

    def forget(self, peer: PeerId) -> None:
        """Drop what is held of `peer`."""
        pair = self._pairs.pop(peer, None)
        if pair is not None:
            self._drop(pair.session)
            if pair.before is not None:
                self._drop(pair.before)

    def seal(self, peer: PeerId, message: bytes) -> bytes | None:
        """Return `message` as a datagram that only `peer` can open; None if it is not known."""
        if len(message) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{len(message)} bytes do not fit a datagram's {MAX_MESSAGE_BYTES}")
        pair = self._pairs.get(peer)
        keys = None if pair is None else self._keys(pair.session)
        if pair is None or keys is None:
            return None
        self._pairs.move_to_end(peer)
        session = pair.session
        counter, session.counter = session.counter, session.counter + 1
        header = _HEADER.pack(session.tag, counter)
        return header + keys.mine.encrypt(_NONCE.pack(counter), message, header)

    def open(self, datagram: bytes) -> tuple[PeerId, bytes] | None:
        """Return who sent `datagram` and what it says; None if it is not to be believed."""
        opened = self._opened(datagram)
        if isinstance(opened, Dropped):
            self.dropped[opened] += 1
            return None
        return opened

    def _opened(self, datagram: bytes) -> tuple[PeerId, bytes] | Dropped:
        if not SEAL_BYTES <= len(datagram) <= MAX_DATAGRAM_BYTES:
            return Dropped.MALFORMED
        tag, counter = _HEADER.unpack_from(datagram)
        session = self._by_tag.get(tag)
        if session is None:
            return Dropped.UNKNOWN
        if not session.window.takes(counter):
            return Dropped.REPLAYED
        keys = self._keys(session)
        if keys is None:
            return Dropped.FORGED
        header, sealed = datagram[: _HEADER.size], datagram[_HEADER.size :]
        try:
            message = keys.theirs.decrypt(_NONCE.pack(counter), sealed, header)
        except InvalidTag:
            return Dropped.FORGED
        session.window.mark(counter)
        self._take_in(session)
        return session.peer, message

    def _take_in(self, session: _Session) -> None:
        session.heard = True
        self._pairs.move_to_end(session.peer)
        pair = self._pairs[session.peer]
        if session is pair.session and pair.before is not None:
            self._drop(pair.before)
            pair.before = None

    def _renew(self, pair: _Pair, public_key: bytes) -> None:
        """Begin a session under a peer's new key; of the earlier ones keep the last that spoke."""
        replaced: _Session | None = pair.session
        if pair.session.heard or pair.before is None:
            replaced, pair.before = pair.before, pair.session
        if replaced is not None:
            self._drop(replaced)
        if pair.before is not None and pair.before.public_key == public_key:
            self._drop(pair.before)
            pair.before = None
        pair.session = self._open_session(pair.session.peer, public_key)

    def _open_session(self, peer: PeerId, public_key: bytes) -> _Session:
        their_end = public_key_of(peer) + public_key
        their_tag = self._tag(their_end + self._my_end)
        session = _Session(
            peer,
            public_key,
            their_end,
            tag=self._tag(self._my_end + their_end),
            their_tag=their_tag,
            counter=self._first_counter,
            window=ReplayWindow.above(self._heard.pop(their_tag, 0)),
        )
        self._by_tag[their_tag] = session
        return session

    def _drop(self, session: _Session) -> None:
        self._first_counter = max(self._first_counter, session.counter)
        self._by_tag.pop(session.their_tag, None)
        if session.window.highest:
            self._heard[session.their_tag] = session.window.highest
        while len(self._heard) > MAX_SESSIONS:
            self._heard.popitem(last=False)

    def _keys(self, session: _Session) -> _Keys | None:
        """Return the session's keys, made at the first call; None if theirs gives no secret."""
        if session.keys is None:
            theirs = X25519PublicKey.from_public_bytes(session.public_key)
            try:
                secret = self._private_key.exchange(theirs)
            except ValueError:  # all zeros for a point of low order (RFC 7748 section 6.1)
                return None
            session.keys = _Keys(
                mine=self._cipher(secret, self._my_end + session.their_end),
                theirs=self._cipher(secret, session.their_end + self._my_end),
            )
        return session.keys

    def _cipher(self, secret: bytes, ends: bytes) -> ChaCha20Poly1305:
        """Return the cipher of one direction; `ends` are the sender's and the receiver's."""
        key = HKDF(SHA256(), KEY_BYTES, salt=self._network, info=_LABEL + ends).derive(secret)
        return ChaCha20Poly1305(key)

    def _tag(self, ends: bytes) -> bytes:
        return hmac.digest(self._network, _LABEL + b"/tag" + ends, "sha256")[:_TAG_BYTES]
