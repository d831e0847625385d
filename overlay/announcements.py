"""A peer's record as one sealed datagram, for whoever cannot hold it yet.

A connection to a bootstrap takes three round trips before the first record passes. A newcomer
therefore sends its record ahead, in a datagram, to the bootstraps that it dials meanwhile; and
whoever has just heard of a newcomer sends its own ahead of the first pings, without which the
newcomer could not open them (`sealing.py` needs both records). Both are called an announcement:

    tag 8 | salt 16 | ChaCha20-Poly1305 of (sent at 8 | signer 32 | signature 64 | record, deflated)

The receiver's datagram key is not known to the sender, so the key is made of what every member
knows: HKDF-SHA256 of a key from the passphrase, over the salt, bound to the receiver. It proves a
member, not which one; that the record itself does, which is signed by its owner and proves its
owner's knowledge of the passphrase once more. Nothing is believed before both were verified, and
what is believed then is no more than what any member could pass on over a stream.

An open network has no secret that keeps strangers' datagrams out, whose sender nobody has seen to
exist. Nothing is announced there, and nothing taken in: newcomers are known by their streams.

What whoever listens on the way can do is to send the same once more. So an announcement says when
it was sent and is taken for `FRESH_S` only, and but once; clocks that differ by more cost the
newcomer its two round trips, no more. The receiver answers nothing: what it sends later, to the
addresses in a verified record, are the pings that any member gets. `RATE` and `BURST` bound what
members can make it verify. To unseal costs something, too, and whoever saw a tag pass can send it
with anything behind it: so each source may have only so many unsealed, and all of them together.
What this keeps out of true newcomers while somebody floods comes by their streams.

Everything here is pure: bytes, salts and the time in, bytes and decisions out.
"""

import hmac
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.datagrams import MAX_DATAGRAM_BYTES
from overlay.identity import peer_id_of, public_key_of
from overlay.names import PeerId
from overlay.pacing import Buckets
from overlay.records import MAX_RECORD_BYTES, PeerRecord
from overlay.signed import Signed

FRESH_S = 30.0
"""How old an announcement may be, or how far ahead: clocks that no NTP sets drift a second a day.
Whoever went has its records kept for longer, so that none of them brings it back."""

RATE = 50.0
"""Announcements a second that are taken in: each costs some 0.3 ms. More newcomers than that at
once are known a little later, by their streams."""

BURST = 100
"""Taken in at once: a small network that starts all at the same time."""

UNSEALED_RATE = RATE / 2
UNSEALED_BURST = BURST
"""Datagrams that one source may have unsealed: a whole network may be behind one router, and a
source that floods leaves half of what is taken in to others."""

UNSEALED_RATE_IN_ALL = 200.0
UNSEALED_BURST_IN_ALL = 400
"""Of all sources, whose addresses may be made up: each costs some 0.1 ms, so 2 % of a core. It is
four times as many as are taken in."""

MOST_SEEN = BURST + int(2 * FRESH_S * RATE)
"""As many as can be taken in while any of them is fresh."""

SALT_BYTES = 16
TAG_BYTES = 8

_LABEL = b"myxo/announcement/1"
_SIGNED_AT = struct.Struct(">d32s64s")
_SEAL_BYTES = TAG_BYTES + SALT_BYTES + 16
_NONCE = bytes(12)
"""Each key is used once: it is made of a salt."""


Source = str | None
"""An IP address; None is not known."""


class Unheeded(StrEnum):
    """Why an announcement is not taken in."""

    FORGED = "forged"
    STALE = "stale"
    REPLAYED = "replayed"
    TOO_MANY = "too_many"
    MALFORMED = "malformed"


class Announcements:
    """Seals announcements of this network, and opens those that are for this peer.

    Args:
        me: this peer.
        keys: the network's announcement keys, the one in force first; none in an open network.

    Attributes:
        unheeded: how many were not taken in, by reason; see `open`.
    """

    def __init__(self, me: PeerId, keys: Iterable[bytes] = ()) -> None:
        self.unheeded: dict[Unheeded, int] = dict.fromkeys(Unheeded, 0)
        self._me = me
        self._keys: tuple[bytes, ...] = ()
        self._by_tag: dict[bytes, bytes] = {}
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._sources: Buckets[Source] = Buckets()
        self._all: Buckets[str] = Buckets()
        self.renew(keys)

    @property
    def is_silent(self) -> bool:
        """Whether nothing may be announced: the network is open."""
        return not self._keys

    def renew(self, keys: Iterable[bytes]) -> None:
        """Take in which keys the network's passphrases give now, the one in force first."""
        self._keys = tuple(keys)
        self._by_tag = {_tag(key, self._me): key for key in self._keys}

    def seal(self, to: PeerId, record: Signed, now: float, salt: bytes) -> bytes | None:
        """Return `record` as a datagram for `to`; None if it does not fit, or may not be announced.

        Args:
            to: the receiver.
            record: a peer's record, signed.
            now: the time in seconds since the epoch.
            salt: `SALT_BYTES` that were never used before.
        """
        if self.is_silent:
            return None
        head = _SIGNED_AT.pack(now, public_key_of(record.signer), record.signature)
        message = head + zlib.compress(record.payload, level=9)
        if _SEAL_BYTES + len(message) > MAX_DATAGRAM_BYTES:
            return None
        tag = _tag(self._keys[0], to)
        return tag + salt + _cipher(self._keys[0], to, salt).encrypt(_NONCE, message, tag)

    def open(self, datagram: bytes, now: float, source: Source = None) -> Signed | Unheeded | None:
        """Return what is announced, yet to be verified; None if this is no announcement for me.

        Args:
            datagram: as it came.
            now: the time in seconds since the epoch.
            source: the IP address that it came from, which may be made up.
        """
        key = self._by_tag.get(datagram[:TAG_BYTES])
        if key is None:
            return None
        opened = self._opened(key, datagram, now, source)
        if isinstance(opened, Unheeded):
            self.unheeded[opened] += 1
        return opened

    def _opened(self, key: bytes, datagram: bytes, now: float, source: Source) -> Signed | Unheeded:
        salt = _parts(datagram)[1]
        message = self._unsealed(key, datagram, now, source)
        if isinstance(message, Unheeded):
            return message
        if len(message) < _SIGNED_AT.size:
            return Unheeded.MALFORMED
        sent_at, signer, signature = _SIGNED_AT.unpack_from(message)
        unheeded = self._judge(salt, sent_at, now)
        if unheeded is not None:
            return unheeded
        payload = _inflated(message[_SIGNED_AT.size :])
        if payload is None:
            return Unheeded.MALFORMED
        return Signed(signer=peer_id_of(signer), payload=payload, signature=signature)

    def _unsealed(
        self, key: bytes, datagram: bytes, now: float, source: Source
    ) -> bytes | Unheeded:
        tag, salt, sealed = _parts(datagram)
        if salt in self._seen:
            return Unheeded.REPLAYED
        if len(datagram) > MAX_DATAGRAM_BYTES:
            return Unheeded.FORGED
        if not self._may_unseal(source, now):
            return Unheeded.TOO_MANY
        try:
            return _cipher(key, self._me, salt).decrypt(_NONCE, sealed, tag)
        except InvalidTag:
            return Unheeded.FORGED

    def _judge(self, salt: bytes, sent_at: float, now: float) -> Unheeded | None:
        """Return why what a member has sealed is not taken in; None if it is, but this once."""
        if not abs(now - sent_at) <= FRESH_S:  # nor if it is no number
            return Unheeded.STALE
        if self._all.take("taken", now, rate=RATE, burst=BURST):
            return Unheeded.TOO_MANY
        self._remember(salt, sent_at, now)
        return None

    def _may_unseal(self, source: Source, now: float) -> bool:
        """Return whether one more datagram is worth its unsealing."""
        if self._sources.take(source, now, rate=UNSEALED_RATE, burst=UNSEALED_BURST):
            return False
        in_all = {"rate": UNSEALED_RATE_IN_ALL, "burst": UNSEALED_BURST_IN_ALL}
        return not self._all.take("unsealed", now, **in_all)

    def _remember(self, salt: bytes, sent_at: float, now: float) -> None:
        """Remember a salt for as long as its announcement is fresh."""
        self._seen[salt] = sent_at + FRESH_S
        for old, until in list(self._seen.items()):
            if until >= now and len(self._seen) <= MOST_SEEN:
                break
            del self._seen[old]


def essentials(record: PeerRecord) -> PeerRecord:
    """Return what of a peer's record fits a datagram, as the version just before it.

    It lacks the images, which are most of a large record. Owners leave every other number free for
    it, so that the whole record takes its place wherever it comes.
    """
    version = record.version.model_copy(update={"counter": record.version.counter - 1})
    floor = min(record.floor, version.counter)
    return record.model_copy(update={"version": version, "images": (), "floor": floor})


def _parts(datagram: bytes) -> tuple[bytes, bytes, bytes]:
    salted = TAG_BYTES + SALT_BYTES
    return datagram[:TAG_BYTES], datagram[TAG_BYTES:salted], datagram[salted:]


def _tag(key: bytes, receiver: PeerId) -> bytes:
    bound = _LABEL + b"/tag" + public_key_of(receiver)
    return hmac.digest(key, bound, "sha256")[:TAG_BYTES]


def _cipher(key: bytes, receiver: PeerId, salt: bytes) -> ChaCha20Poly1305:
    bound = _LABEL + public_key_of(receiver)
    return ChaCha20Poly1305(HKDF(SHA256(), 32, salt=salt, info=bound).derive(key))


def _inflated(data: bytes) -> bytes | None:
    """Return the bytes that were deflated, at most one more than a record may have."""
    inflater = zlib.decompressobj()
    try:
        return inflater.decompress(data, MAX_RECORD_BYTES + 1)
    except zlib.error:
        return None
