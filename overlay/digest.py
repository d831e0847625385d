"""A summary of all records that two peers compare, so that whatever one has missed is found.

Flooding reaches everybody who is connected while it happens. Who was not finds out by comparing:
the owners are spread over `BUCKETS` by a hash, and a bucket's value is the XOR of the hashes of all
versions in it, which is kept up to date in constant time and does not depend on the order. Equal
tables have equal digests whatever their size, so in the steady state a comparison costs 1 KiB; only
buckets that differ are listed. This is the first level of a Merkle tree; with some thousands of
owners a second one would save nothing.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from overlay.names import PeerId

BUCKETS = 128
"""8 bytes each; with 4,000 owners one of them lists about 31."""

_BUCKET = struct.Struct(f">{BUCKETS}Q")

SUMMARY_BYTES = _BUCKET.size

Key = tuple[PeerId, str, str]
"""A record's owner, kind and id."""

Stamp = tuple[float, int]
"""A record's epoch and counter."""


@dataclass(slots=True)
class Digest:
    """The summary of a table of versions, changed along with it."""

    _values: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    _stamps: list[dict[Key, Stamp]] = field(default_factory=lambda: [{} for _ in range(BUCKETS)])

    def put(self, key: Key, stamp: Stamp) -> None:
        """Take in that the table has this version of a record, and no other of it."""
        self.drop(key)
        bucket = bucket_of(key[0])
        self._stamps[bucket][key] = stamp
        self._values[bucket] ^= _hash(key, stamp)

    def drop(self, key: Key) -> None:
        """Take in that the table has no such record."""
        bucket = bucket_of(key[0])
        stamp = self._stamps[bucket].pop(key, None)
        if stamp is not None:
            self._values[bucket] ^= _hash(key, stamp)

    def summary(self) -> bytes:
        """Return the `BUCKETS` values, 8 bytes each."""
        return _BUCKET.pack(*self._values)

    def differing(self, summary: bytes) -> list[int]:
        """Return the buckets in which another table differs from this one.

        Raises:
            ValueError: it is no summary.
        """
        if len(summary) != _BUCKET.size:
            raise ValueError(f"a summary has {_BUCKET.size} bytes, not {len(summary)}")
        theirs = _BUCKET.unpack(summary)
        return [n for n, value in enumerate(self._values) if value != theirs[n]]

    def items(self, bucket: int) -> Iterator[tuple[Key, Stamp]]:
        """Yield the versions in a bucket."""
        yield from self._stamps[bucket].items()

    def news(self, bucket: int, theirs: Iterable[tuple[Key, Stamp]]) -> list[Key]:
        """Return the records of this table's bucket that the other does not have, or has older."""
        known = dict(theirs)
        return [
            key
            for key, stamp in self._stamps[bucket].items()
            if key not in known or known[key] < stamp
        ]


def empty_buckets(summary: bytes) -> frozenset[int]:
    """Return the buckets of another table that have nothing in them.

    Raises:
        ValueError: it is no summary.
    """
    if len(summary) != _BUCKET.size:
        raise ValueError(f"a summary has {_BUCKET.size} bytes, not {len(summary)}")
    return frozenset(n for n, value in enumerate(_BUCKET.unpack(summary)) if value == 0)


def bucket_of(owner: PeerId) -> int:
    """Return the bucket of an owner's records: all of them are in one."""
    return blake2b(owner.encode(), digest_size=1).digest()[0] % BUCKETS


def _hash(key: Key, stamp: Stamp) -> int:
    text = "\n".join((*key, repr(stamp[0]), str(stamp[1])))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
