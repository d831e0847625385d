"""What this peer believes of the network: who is there, how far, and which instances run where.

The view joins signed records with membership: a record counts only while its owner is a member, so
a dead machine's instances are gone in the instant in which it is declared dead. Selection reads it
on every request, so lists are built once per change and served from memory.

Pure: the shell in `mesh.py` feeds it, and is told of changes by the `generation` number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from overlay.errors import RecordRefused
from overlay.membership import Membership, MemberState
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import Held, InstanceRecord, PeerRecord, RecordTable, Role, is_void
from overlay.signed import Signed

_THERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})


@dataclass(frozen=True, slots=True)
class PeerView:
    """A member as seen from here; `rtt_s` is None before the first answered probe."""

    peer_id: PeerId
    record: PeerRecord
    state: MemberState
    rtt_s: float | None
    local: bool


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as seen from here; `local` means on this machine's network stack."""

    owner: PeerId
    record: InstanceRecord
    rtt_s: float | None
    local: bool
    suspect: bool

    @property
    def key(self) -> tuple[PeerId, InstanceId]:
        """What tells this instance from every other in the network."""
        return self.owner, self.record.id


@dataclass(slots=True)
class View:
    """Records, membership and load of the network as this peer knows it.

    Attributes:
        me: this peer.
        machine: this machine, as in `PeerRecord.machine`.
        generation: grows with every change that a reader may care about.
        refuses: whether a peer is banned, so that none of its records is taken.
    """

    me: PeerId
    machine: str
    membership: Membership = field(default_factory=Membership)
    generation: int = 0
    refuses: Callable[[PeerId], bool] = lambda _: False
    _records: RecordTable = field(default_factory=RecordTable)
    _load: dict[tuple[PeerId, InstanceId], int] = field(default_factory=dict)
    _instances: dict[ServiceName, tuple[InstanceView, ...]] | None = None

    def apply(self, signed: Signed, now: float) -> Held | None:
        """Take a record in; return it if it is news.

        Raises:
            RecordRefused: it is forged, malformed, too large, one too many, or a banned peer's.
        """
        if signed.signer != self.me and self.refuses(signed.signer):
            raise RecordRefused("banned", f"{signed.signer} is banned from this network")
        held = self._records.apply(signed, now)
        if held is not None:
            if isinstance(held.record, PeerRecord) and held.record.machine == self.machine:
                self.membership.local.add(held.owner)
            if isinstance(held.record, InstanceRecord) and held.record.withdrawn:
                self._load.pop((held.owner, held.record.id), None)
            self.touch()
        return held

    def peer(self, peer: PeerId) -> PeerRecord | None:
        """Return what `peer` last said of itself, member or not."""
        return self._records.peer(peer)

    def peers(self, role: Role | None = None) -> list[PeerView]:
        """Return the members other than this one, nearest first."""
        views = [self._peer_view(p) for p in self._members() if p != self.me]
        found = [v for v in views if v is not None and role in {None, v.record.role}]
        return sorted(found, key=lambda v: (not v.local, _distance(v.rtt_s)))

    def instances(self, service: ServiceName) -> tuple[InstanceView, ...]:
        """Return the instances of `service` whose owner is a member, or this peer itself."""
        if self._instances is None:
            self._instances = self._index()
        return self._instances.get(service, ())

    def all_instances(self) -> Iterable[InstanceView]:
        """Yield every instance in the view."""
        if self._instances is None:
            self._instances = self._index()
        for found in self._instances.values():
            yield from found

    def in_flight(self, instance: InstanceView) -> int:
        """Return the requests that the owner last said are being served there."""
        return self._load.get(instance.key, 0)

    def set_load(self, owner: PeerId, load: dict[InstanceId, int]) -> None:
        """Take in what `owner` says of its instances' load."""
        held = {h.record.id for h in self._records.of(owner)}
        for instance in held & load.keys():
            self._load[owner, InstanceId(instance)] = load[InstanceId(instance)]

    def records_of(self, owner: PeerId) -> list[Signed]:
        """Return the signed records of one owner, to be passed on."""
        return [h.signed for h in self._records.of(owner)]

    def member_records(self) -> list[Signed]:
        """Return the signed records of all members and of this peer, to be passed on."""
        return [signed for owner in self._members() for signed in self.records_of(owner)]

    def known(self) -> list[PeerId]:
        """Return every peer that a record is held of, member or not."""
        return list(self._records.owners())

    def forget(self, owner: PeerId) -> None:
        """Drop everything that is held of `owner`, who is no member any more."""
        self._records.forget(owner)
        self.membership.forget(owner)
        self._load = {k: v for k, v in self._load.items() if k[0] != owner}
        self.touch()

    def touch(self) -> None:
        """Say that something changed; lists are built anew when next asked for."""
        self.generation += 1
        self._instances = None

    def _members(self) -> list[PeerId]:
        return [
            p for p in self._records.owners() if p == self.me or self.membership.state(p) in _THERE
        ]

    def _peer_view(self, peer: PeerId) -> PeerView | None:
        record = self._records.peer(peer)
        if record is None:
            return None
        estimate = self.membership.rtt(peer)
        return PeerView(
            peer,
            record,
            MemberState.ALIVE if peer == self.me else self.membership.state(peer),
            None if estimate is None else estimate.smoothed_rtt,
            local=record.machine == self.machine,
        )

    def _index(self) -> dict[ServiceName, tuple[InstanceView, ...]]:
        found: dict[ServiceName, list[InstanceView]] = {}
        for owner in self._members():
            peer = self._peer_view(owner)
            if peer is None:
                continue
            for held in self._records.of(owner):
                record = held.record
                if isinstance(record, InstanceRecord) and not is_void(record, peer.record):
                    suspect = peer.state is MemberState.SUSPECT
                    view = InstanceView(owner, record, peer.rtt_s, peer.local, suspect)
                    found.setdefault(record.service, []).append(view)
        return {service: tuple(views) for service, views in found.items()}


def _distance(rtt_s: float | None) -> float:
    return float("inf") if rtt_s is None else rtt_s
