"""The same backend for the same key: ring hash and Maglev.

Both keep nearly all keys where they were when a backend comes or goes. The ring (Karger et al.,
"Consistent Hashing and Random Trees") has points for each backend and takes the first one behind
the key's. Maglev (Eisenbud et al., section 3.4) fills a table in which each backend claims slots in
an order of its own, in turns; shares are more even, and a change moves a few keys more.

Where a key's backend cannot be used the next one behind it is, so that its keys spread over the
others and come back to it. A request without a key goes anywhere, as with Envoy.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from random import Random

from proxy.ranking.policies.backend import B, Backend
from proxy.ranking.policies.chance import WeightedChance

POINTS = 1024
"""On the ring, at least; Envoy's."""

POINTS_EACH = 64
"""For each backend: shares are then within a third of each other, mostly."""

MAX_POINTS = 65_536

TABLE_SIZES = (1_021, 4_093, 16_381, 65_537)
"""Primes; the table has a hundred slots for each backend where it can, as the paper wants."""

SLOTS_EACH = 100

_HASHES = 8
"""In one digest of 64 bytes."""


class _ByKey(ABC):
    """A circle of slots, each of one backend: a key's is the first usable one from its slot on."""

    def __init__(self, random: Random) -> None:
        self._anywhere = WeightedChance(random)
        self._names: list[tuple[str, float]] = []
        self._among: Sequence[Backend] = ()
        self._slots: list[int] = []

    def pick(self, among: Sequence[B], now: float, key: bytes | None = None) -> B | None:
        """See `Policy.pick`."""
        if key is None:
            return self._anywhere.pick(among, now)
        if among is not self._among:
            self._follow(among)
        start, count = self._slot_of(hash64(key)), len(self._slots)
        seen: set[int] = set()
        for step in range(count):
            number = self._slots[(start + step) % count]
            if number not in seen:
                if among[number].usable(now):
                    return among[number]
                seen.add(number)
                if len(seen) == len(among):
                    break
        return self._anywhere.pick(among, now)

    def _follow(self, among: Sequence[Backend]) -> None:
        """Lay the circle anew, unless it is only other distances that these came with."""
        names = [(b.name, b.weight) for b in among]
        if names != self._names:
            self._slots = self._laid(among)
        self._names, self._among = names, among

    @abstractmethod
    def _laid(self, among: Sequence[Backend]) -> list[int]:
        """Return the number of the backend that each slot belongs to."""

    @abstractmethod
    def _slot_of(self, hashed: int) -> int:
        """Return the slot of a key."""


class RingHash(_ByKey):
    """The first backend behind the key on the ring."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._points: list[int] = []

    def _laid(self, among: Sequence[Backend]) -> list[int]:
        ring = sorted(_points(among))
        self._points = [point for point, _ in ring]
        return [number for _, number in ring]

    def _slot_of(self, hashed: int) -> int:
        return bisect_left(self._points, hashed)


class Maglev(_ByKey):
    """The backend in the key's slot of the table."""

    def _laid(self, among: Sequence[Backend]) -> list[int]:
        return maglev_table(among)

    def _slot_of(self, hashed: int) -> int:
        return hashed % max(len(self._slots), 1)


def hash64(key: bytes) -> int:
    """Return 64 bits of `key`, the same on every machine and in every version."""
    return int.from_bytes(blake2b(key, digest_size=8).digest())


def maglev_table(among: Sequence[Backend]) -> list[int]:
    """Return which backend, by its number, has which slot; empty where none has weight."""
    weighty = [n for n, b in enumerate(among) if b.weight]
    wanted = SLOTS_EACH * len(weighty)
    size = next((s for s in TABLE_SIZES if s >= wanted), TABLE_SIZES[-1])
    table = [-1] * (size if weighty else 0)
    turns = [_Turn(n, among[n], size) for n in weighty]
    heaviest = max((among[n].weight for n in weighty), default=1.0)
    left = len(table)
    while left:
        for turn in turns:
            turn.due += turn.weight / heaviest
            if turn.due >= 1.0:
                turn.due -= 1.0
                turn.claim(table)
                left -= 1
                if not left:
                    break
    return table


class _Turn:
    """A backend that claims slots."""

    __slots__ = ("due", "number", "size", "slot", "step", "weight")

    def __init__(self, number: int, backend: Backend, size: int) -> None:
        name = backend.name.encode()
        self.number = number
        self.weight = backend.weight
        self.size = size
        self.slot = hash64(name) % size
        self.step = hash64(name + b"\0") % (size - 1) + 1
        self.due = 0.0

    def claim(self, table: list[int]) -> None:
        """Take the first slot in this backend's order that is free."""
        slot = self.slot
        while table[slot] >= 0:
            slot = (slot + self.step) % self.size
        table[slot] = self.number
        self.slot = (slot + self.step) % self.size


def _points(among: Sequence[Backend]) -> list[tuple[int, int]]:
    """Return the ring's points with the number of the backend that each belongs to."""
    total = sum(b.weight for b in among)
    size = min(max(POINTS, POINTS_EACH * len(among)), MAX_POINTS)
    found: list[tuple[int, int]] = []
    for number, backend in enumerate(among):
        if not backend.weight:
            continue
        wanted = ceil(size * backend.weight / total)
        for part in range(ceil(wanted / _HASHES)):
            digest = blake2b(f"{backend.name}_{part}".encode()).digest()
            found += [
                (int.from_bytes(digest[at : at + 8]), number)
                for at in range(0, 8 * min(_HASHES, wanted - part * _HASHES), 8)
            ]
    return found
