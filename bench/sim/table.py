"""The records that a simulated peer holds, most of which it shares with all others.

A network of 4,000 peers has 16 million held peer records. At its start everybody holds those of
all founders, so these are kept once for all; a peer's own are only the changes since. A record
counts, and is in the digest, while its owner is a member.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from overlay.digest import BUCKETS, Digest, Key, Stamp, bucket_of
from overlay.names import PeerId

GONE: Stamp = (-1.0, -1)
"""Stands in the digest of changes for a founder's record that does not count."""


def peer_key(owner: PeerId) -> Key:
    """Return the key of a peer's record of itself."""
    return owner, "peer", ""


class Founding:
    """The records that every founder holds of all founders.

    Attributes:
        stamps: their versions.
    """

    def __init__(self, stamps: Mapping[Key, Stamp]) -> None:
        self.stamps = stamps
        self._buckets: dict[int, list[Key]] = {}
        for key in stamps:
            self._buckets.setdefault(bucket_of(key[0]), []).append(key)

    def bucket(self, number: int) -> list[Key]:
        """Return the keys in one bucket of a digest."""
        return self._buckets.get(number, [])


@dataclass(slots=True)
class Table:
    """What one peer holds.

    Attributes:
        founding: what it has held from the start; empty for one that comes later.
    """

    founding: Founding
    _held: dict[Key, Stamp] = field(default_factory=dict)
    _of: dict[PeerId, list[Key]] = field(default_factory=dict)
    _digest: Digest = field(default_factory=Digest)

    def stamp(self, key: Key) -> Stamp | None:
        """Return the version held of a record."""
        stamp = self._held.get(key)
        return self.founding.stamps.get(key) if stamp is None else stamp

    def put(self, key: Key, stamp: Stamp) -> bool:
        """Hold this version, if it is newer; return if it is."""
        known = self.stamp(key)
        if known is not None and stamp <= known:
            return False
        if key not in self._held:
            self._of.setdefault(key[0], []).append(key)
        self._held[key] = stamp
        return True

    def count(self, owner: PeerId, *, member: bool) -> None:
        """Have the owner's records in the digest or not; those of an earlier life never are."""
        mine = peer_key(owner)
        if mine in self.founding.stamps and mine not in self._held:
            if member:
                self._digest.drop(mine)
            else:
                self._digest.put(mine, GONE)
        newest = self.stamp(mine)
        for key in self._of.get(owner, ()):
            stamp = self._held[key]
            if member and newest is not None and stamp[0] >= newest[0]:
                self._digest.put(key, stamp)
            elif key in self.founding.stamps:
                self._digest.put(key, GONE)
            else:
                self._digest.drop(key)

    def of(self, owner: PeerId) -> Iterator[tuple[Key, Stamp]]:
        """Yield the owner's records."""
        for key in dict.fromkeys((peer_key(owner), *self._of.get(owner, ()))):
            stamp = self.stamp(key)
            if stamp is not None:
                yield key, stamp

    def counting(self) -> Iterator[tuple[Key, Stamp]]:
        """Yield what counts beside the founders' own records, or is newer than those."""
        for number in range(BUCKETS):
            for key, stamp in self._digest.items(number):
                if stamp != GONE:
                    yield key, stamp

    def summary(self) -> bytes:
        """Return the digest of what differs from the founders' records."""
        return self._digest.summary()

    def differing(self, summary: bytes) -> list[int]:
        """Return the buckets in which another table differs."""
        return self._digest.differing(summary)

    def items(self, bucket: int) -> dict[Key, Stamp]:
        """Return the versions in a bucket that count."""
        found = {key: self.founding.stamps[key] for key in self.founding.bucket(bucket)}
        found.update(self._digest.items(bucket))
        return {key: stamp for key, stamp in found.items() if stamp != GONE}
