"""What is held of what peers say about themselves: the newest verified record of each.

An instance that is gone leaves its last record, the withdrawn one, which beats older versions that
arrive late. So that these do not pile up, an owner states a *floor* in its peer record: what it
said before its present epoch, or with a counter below the floor, is void. It is dropped here and
refused from then on, whatever it says. (`compaction.py` has the owner's part of it.) Nothing is
dropped that its owner has not declared void, so that the same records, in any order and however
often, make the same table.

Sizes and numbers are bounded by owner and in all; what is refused is counted by reason.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from overlay.errors import RecordRefused
from overlay.names import InstanceId, PeerId
from overlay.records import (
    MAX_OWNERS,
    Held,
    InstanceRecord,
    PeerRecord,
    Refusal,
    is_superseded,
    verified_record,
)
from overlay.signed import Signed

MAX_RECORDS_PER_OWNER = 1024
"""A machine runs some hundreds of instances at the most; more is a fault or an attack."""

MAX_OWNER_BYTES = 512 * 1024
"""The largest peer record and as many instances' records of 450 bytes as there may be."""

MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""`MAX_OWNERS` with 6.5 KiB each: an allocator's record with half of `MAX_IMAGES`, and some five
instances. Parsed they take some four times as much memory."""


@dataclass(slots=True)
class _Owned:
    """One owner's records, also by the bytes that were signed."""

    records: dict[tuple[str, str], Held] = field(default_factory=dict)
    by_payload: dict[bytes, Held] = field(default_factory=dict)
    payload_bytes: int = 0

    def put(self, held: Held) -> None:
        self.drop(held.key)
        self.records[held.key] = self.by_payload[held.signed.payload] = held
        self.payload_bytes += len(held.signed.payload)

    def drop(self, key: tuple[str, str]) -> None:
        held = self.records.pop(key, None)
        if held is not None:
            del self.by_payload[held.signed.payload]
            self.payload_bytes -= len(held.signed.payload)

    def growth(self, held: Held) -> int:
        """Return how many more payload bytes there are once `held` is put."""
        known = self.records.get(held.key)
        return len(held.signed.payload) - (0 if known is None else len(known.signed.payload))


@dataclass(slots=True)
class RecordTable:
    """The newest verified record of each (owner, kind, id).

    Attributes:
        mine: this peer, which must be able to publish whatever others have sent: the bounds that
            all owners share do not concern it.
        refused: how many records were not taken, by reason. Stale ones are older than what is held,
            or void; honest flooding brings some, and replays bring many.
        duplicates: how many came that were held already.
        payload_bytes: of all that is held.
    """

    mine: PeerId | None = None
    refused: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    payload_bytes: int = 0
    _by_owner: dict[PeerId, _Owned] = field(default_factory=dict)

    def apply(self, signed: Signed, now: float) -> Held | None:
        """Take `signed` in if it is news; return what is now held, or None for an old version.

        Raises:
            RecordRefused: too large, too many, malformed, dated in the future or wrongly signed.
        """
        if self._holds(signed):  # most of what flooding brings: no signature is looked at
            self.duplicates += 1
            return None
        try:
            return self._take(verified_record(signed, now))
        except RecordRefused as exc:
            self.refused[exc.reason] += 1
            raise

    def _holds(self, signed: Signed) -> bool:
        owned = self._by_owner.get(signed.signer)
        held = None if owned is None else owned.by_payload.get(signed.payload)
        return held is not None and held.signed.signature == signed.signature

    def _take(self, held: Held) -> Held | None:
        owned = self._by_owner.get(held.owner) or _Owned()
        known = owned.records.get(held.key)
        if known is not None and held.signed.payload == known.signed.payload:
            self.duplicates += 1
            return None
        if (known is not None and not held.newer_than(known)) or self._is_void(held):
            self.refused[Refusal.STALE] += 1
            return None
        self._check_bounds(held, owned)
        self._by_owner[held.owner] = owned
        self.payload_bytes += owned.growth(held)
        owned.put(held)
        if isinstance(held.record, PeerRecord):
            return replace(held, voids=tuple(self._drop_void(held.owner, held.record)))
        return held

    def _is_void(self, held: Held) -> bool:
        peer = self.peer(held.owner)
        return isinstance(held.record, InstanceRecord) and is_superseded(held.record, peer)

    def _check_bounds(self, held: Held, owned: _Owned) -> None:
        if held.key not in owned.records and len(owned.records) >= MAX_RECORDS_PER_OWNER:
            raise RecordRefused(
                Refusal.OWNER_COUNT, f"{held.owner} has {MAX_RECORDS_PER_OWNER} records"
            )
        growth = owned.growth(held)
        if growth > 0 and owned.payload_bytes + growth > MAX_OWNER_BYTES:
            raise RecordRefused(
                Refusal.OWNER_BYTES, f"{held.owner} has {owned.payload_bytes} bytes of records"
            )
        if held.owner == self.mine:
            return
        if not owned.records and len(self._by_owner) >= MAX_OWNERS:
            raise RecordRefused(Refusal.PEERS, f"the view is full: {MAX_OWNERS} peers")
        if growth > 0 and self.payload_bytes + growth > MAX_TOTAL_BYTES:
            raise RecordRefused(
                Refusal.TOTAL_BYTES, f"the view is full: {self.payload_bytes} bytes of records"
            )

    def _drop_void(self, owner: PeerId, peer: PeerRecord) -> Iterator[Held]:
        """Drop what the owner's peer record says is void, and yield it."""
        owned = self._by_owner[owner]
        for key, held in list(owned.records.items()):
            if isinstance(held.record, InstanceRecord) and is_superseded(held.record, peer):
                owned.drop(key)
                self.payload_bytes -= len(held.signed.payload)
                yield held

    def forget(self, owner: PeerId) -> None:
        """Drop every record of `owner`."""
        owned = self._by_owner.pop(owner, None)
        if owned is not None:
            self.payload_bytes -= owned.payload_bytes

    def peer(self, owner: PeerId) -> PeerRecord | None:
        """Return the owner's record of itself, if there is one."""
        held = self.get(owner, "peer", "")
        return held.record if held is not None and isinstance(held.record, PeerRecord) else None

    def get(self, owner: PeerId, kind: str, record_id: str) -> Held | None:
        """Return one record, if it is held."""
        owned = self._by_owner.get(owner)
        return None if owned is None else owned.records.get((kind, record_id))

    def instance(self, owner: PeerId, instance: InstanceId) -> InstanceRecord | None:
        """Return what an owner last said of one of its instances."""
        held = self.get(owner, "instance", instance)
        return held.record if held is not None and isinstance(held.record, InstanceRecord) else None

    def of(self, owner: PeerId) -> Iterator[Held]:
        """Yield what is held of `owner`."""
        owned = self._by_owner.get(owner)
        if owned is not None:
            yield from owned.records.values()

    def owners(self) -> Iterator[PeerId]:
        """Yield every owner of at least one record."""
        yield from self._by_owner

    def __len__(self) -> int:
        return sum(len(owned.records) for owned in self._by_owner.values())
