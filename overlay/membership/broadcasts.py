"""Updates that are passed on with whatever is sent: those said least often first.

Infection-style dissemination (Das, Gupta, Motivala, "SWIM", 2002, section 4.1): each peer repeats
an update in a number of datagrams that grows with the logarithm of the network's size, after which
everybody has heard it with high probability. What is news about a peer replaces what was said
about it before; only suspicions by different accusers stand side by side, since each of them
counts as a confirmation elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from overlay.membership.messages import Suspect, Update
from overlay.names import PeerId

MAX_BROADCASTS = 4096
"""Updates that wait; as many as there are members in a large network. Beyond that those that were
said most often are dropped: push-pull tells them."""

_LARGEST = 105
"""Bytes of the largest update."""


@dataclass(slots=True, eq=False)
class _Entry:
    update: Update
    sent: int = 0


class Broadcasts:
    """The queue of updates; `len` says how many wait."""

    def __init__(self) -> None:
        self._tiers: list[dict[int, _Entry]] = []
        """Entries by how often each was sent; within that, the newest last."""
        self._about: dict[PeerId, list[_Entry]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, update: Update) -> None:
        """Queue `update` in place of what it supersedes."""
        for entry in list(self._about.get(update.peer, ())):
            if not _stands_beside(entry.update, update):
                self._remove(entry)
        if self._waiting >= MAX_BROADCASTS:
            self._remove(self._stalest())
        entry = _Entry(update)
        self._about.setdefault(update.peer, []).append(entry)
        self._place(entry)
        self._waiting += 1

    def drop(self, peer: PeerId) -> None:
        """Say nothing more about `peer`."""
        for entry in list(self._about.get(peer, ())):
            self._remove(entry)

    def about(self, peer: PeerId) -> list[Update]:
        """Return what is being said about `peer`."""
        return [entry.update for entry in self._about.get(peer, ())]

    def take(self, room: int, limit: int, besides: Iterable[Update] = ()) -> list[Update]:
        """Return updates for one datagram and count them as sent.

        Args:
            room: bytes that they may take.
            limit: how often each may be sent in all.
            besides: those that are in the datagram already.
        """
        said = list(besides)
        taken: list[_Entry] = []
        for tier in self._tiers:
            for entry in reversed(tier.values()):
                if room < entry.update.SIZE:
                    break
                if entry.update not in said:
                    taken.append(entry)
                    room -= entry.update.SIZE
            if room < _LARGEST:
                break
        for entry in reversed(taken):
            self._say(entry, limit)
        return [entry.update for entry in taken]

    def _say(self, entry: _Entry, limit: int) -> None:
        del self._tiers[entry.sent][id(entry)]
        entry.sent += 1
        if entry.sent < limit:
            self._place(entry)
        else:
            self._strike(entry)

    def _place(self, entry: _Entry) -> None:
        while len(self._tiers) <= entry.sent:
            self._tiers.append({})
        self._tiers[entry.sent][id(entry)] = entry

    def _remove(self, entry: _Entry) -> None:
        del self._tiers[entry.sent][id(entry)]
        self._strike(entry)

    def _strike(self, entry: _Entry) -> None:
        entries = self._about[entry.update.peer]
        entries.remove(entry)
        if not entries:
            del self._about[entry.update.peer]
        self._waiting -= 1

    def _stalest(self) -> _Entry:
        tier = next(tier for tier in reversed(self._tiers) if tier)
        return next(iter(tier.values()))


def _stands_beside(old: Update, new: Update) -> bool:
    both = isinstance(old, Suspect) and isinstance(new, Suspect)
    return both and old.incarnation == new.incarnation and old != new
