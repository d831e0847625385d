"""What this peer believes of the network: who is there, how far, and which instances run where.

The view joins signed records with membership: a record counts only while its owner is a member, so
a dead machine's instances are gone in the instant in which it is declared dead. Selection reads it
on every request, so lists are built once per change and served from memory: the list of a service,
and only when something of that service or of the owner of one of its instances has changed.

Pure: the shells in `mesh.py` and `probing.py` feed it, and readers are told of changes of members
and records by the `generation` number. New measurements of RTT are seen in the lists at once and do
not count as a change.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from overlay.coordinates import RttGuess
from overlay.digest import Digest, Key
from overlay.errors import RecordRefused
from overlay.measurements import Measurements
from overlay.membership import Membership, MemberState
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.record_table import RecordTable
from overlay.records import Held, InstanceRecord, PeerRecord, Role, is_void
from overlay.signed import Signed

RTT_FRESH_S = 120.0
"""An older measurement gives way to the estimate from coordinates, which follows the network."""

LOAD_FRESH_S = 10.0
"""What a peer said of its load longer ago says nothing about now."""

_UNSAID = (0, 0.0)
_THERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a peer is: the RTT in seconds, and how far the truth may be from it.

    Attributes:
        measured: by probes of this peer; otherwise estimated from coordinates.
    """

    rtt_s: float
    error_s: float
    measured: bool


@dataclass(frozen=True, slots=True)
class PeerView:
    """A member as seen from here; `distance` is None while nothing is known of it."""

    peer_id: PeerId
    record: PeerRecord
    state: MemberState
    distance: Distance | None
    local: bool

    @property
    def rtt_s(self) -> float | None:
        """The RTT in seconds, as well as it is known."""
        return None if self.distance is None else self.distance.rtt_s


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as seen from here.

    Attributes:
        local: it is on this machine's network stack.
        suspect: it may not answer: its machine may be dead, or it fails its health checks.
        key: what tells this instance from every other in the network.
    """

    owner: PeerId
    record: InstanceRecord
    rtt_s: float | None
    local: bool
    suspect: bool
    key: tuple[PeerId, InstanceId] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.owner, self.record.id))  # it is asked for often


@dataclass(slots=True)
class View:
    """Records, membership and load of the network as this peer knows it.

    Attributes:
        me: this peer.
        machine: this machine, as in `PeerRecord.machine`.
        membership: who is there.
        clock: returns the time that membership is told, in seconds.
        generation: grows with every change that a reader may care about.
        digest: a summary of the members' records.
        measurements: all RTTs that were measured, as histograms.
        records: what is held of everybody, members or not; `apply` and `forget` change it.
        refuses: whether a peer is banned, so that none of its records is taken.
    """

    me: PeerId
    machine: str
    membership: Membership
    clock: Callable[[], float]
    generation: int = 0
    refuses: Callable[[PeerId], bool] = lambda _: False
    digest: Digest = field(default_factory=Digest)
    measurements: Measurements = field(default_factory=Measurements)
    records: RecordTable = field(default_factory=RecordTable)
    _there: dict[PeerId, None] = field(default_factory=dict)
    _services: dict[ServiceName, dict[PeerId, set[InstanceId]]] = field(default_factory=dict)
    _service_of: dict[tuple[PeerId, InstanceId], ServiceName] = field(default_factory=dict)
    _lists: dict[ServiceName, tuple[InstanceView, ...]] = field(default_factory=dict)
    _load: dict[PeerId, dict[InstanceId, tuple[int, float]]] = field(default_factory=dict)
    _pins: dict[str, PeerId] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.records.mine = self.me

    def apply(self, signed: Signed, now: float) -> Held | None:
        """Take a record in; return it if it is news.

        Raises:
            RecordRefused: it is forged, malformed, too large, one too many, or a banned peer's.
        """
        if signed.signer != self.me and self.refuses(signed.signer):
            raise RecordRefused("banned", f"{signed.signer} is banned from this network")
        held = self.records.apply(signed, now)
        if held is None:
            return None
        if held.owner == self.me:
            self._there[self.me] = None
        self._index(held)
        self._count(held)
        self._drop_lists(held.owner)
        for void in held.voids:
            self._drop(void)
        self.generation += 1
        return held

    def settle(self, peer: PeerId) -> None:
        """Take in that membership now believes something else of `peer`."""
        if peer != self.me and self.membership.state(peer) not in _THERE:
            self._there.pop(peer, None)
            self._load.pop(peer, None)
        elif self.records.peer(peer) is not None:
            self._there[peer] = None
        for held in self.records.of(peer):
            self._count(held)
        self._drop_lists(peer)
        self.generation += 1

    def measured(self, peer: PeerId, guess: RttGuess | None = None) -> None:
        """Take in that `peer` was measured anew, and the estimate of it from before."""
        record, estimate = self.peer(peer), self.membership.rtt(peer)
        if record is not None and estimate is not None:
            self.measurements.take(record.role, estimate.latest, guess)
        self._drop_lists(peer)

    def peer(self, peer: PeerId) -> PeerRecord | None:
        """Return what `peer` last said of itself, member or not."""
        return self.records.peer(peer)

    def host_of(self, peer: PeerId) -> str:
        """Return the name of the machine that `peer` runs on; empty if it has not said."""
        record = self.records.peer(peer)
        return "" if record is None else record.host

    def is_member(self, peer: PeerId) -> bool:
        """Whether `peer` is there and has said what it is; this peer itself is."""
        return peer in self._there

    def members(self) -> Collection[PeerId]:
        """Return everybody who is there and has said what it is, this peer included."""
        return self._there.keys()

    def peers(self, role: Role | None = None) -> list[PeerView]:
        """Return the members other than this one, nearest first."""
        views = [self._peer_view(p) for p in self._there if p != self.me]
        found = [v for v in views if v is not None and role in {None, v.record.role}]
        return sorted(found, key=lambda v: (not v.local, _length(v.rtt_s)))

    def by_certificate(self, pin: str) -> PeerId | None:
        """Return the member whose TLS leaf has this SHA-256."""
        peer = self._pins.get(pin)
        record = None if peer is None or peer not in self._there else self.records.peer(peer)
        return peer if record is not None and record.certificate == pin else None

    def instances(self, service: ServiceName) -> tuple[InstanceView, ...]:
        """Return the instances of `service` whose owner is a member, or this peer itself."""
        found = self._lists.get(service)
        if found is None:
            if service not in self._services:  # names that are asked for in vain take no room
                return ()
            found = self._lists[service] = tuple(self._list(service))
        return found

    def all_instances(self) -> Iterable[InstanceView]:
        """Yield every instance in the view."""
        for service in list(self._services):
            yield from self.instances(service)

    def in_flight(self, instance: InstanceView) -> int:
        """Return the requests that the owner said are being served there; 0 if that is long ago."""
        by_instance = self._load.get(instance.owner)
        if by_instance is None:
            return 0
        said, at = by_instance.get(instance.record.id, _UNSAID)
        return said if said and self.clock() - at <= LOAD_FRESH_S else 0

    def set_load(self, owner: PeerId, load: dict[InstanceId, int]) -> None:
        """Take in what `owner` says of the load of some of its instances."""
        now = self.clock()
        for instance, in_flight in load.items():
            if self.records.instance(owner, instance) is not None:
                self._load.setdefault(owner, {})[instance] = (in_flight, now)

    def served_there(self, instance: InstanceView, before: int, after: int) -> None:
        """Take in that of `before` requests of this peer's own at an instance `after` are left.

        If its owner has said no more than these, it has spoken of these.
        """
        said, at = self._load.get(instance.owner, {}).get(instance.record.id, _UNSAID)
        if after < said <= before:
            self._load[instance.owner][instance.record.id] = (after, at)

    def distance(self, peer: PeerId) -> Distance | None:
        """Return how far `peer` is: measured if that is fresh, else estimated, if possible."""
        estimate = self.membership.rtt(peer)
        age = self.membership.rtt_age(peer, self.clock())
        if estimate is not None and age is not None and age <= RTT_FRESH_S:
            return Distance(estimate.smoothed_rtt, estimate.rtt_variation, measured=True)
        guess = self.membership.coordinates.estimate(peer)
        if guess is not None:
            return Distance(guess.rtt_s, guess.error_s, measured=False)
        if estimate is not None:
            return Distance(estimate.smoothed_rtt, estimate.rtt_variation, measured=True)
        return None

    def records_of(self, owner: PeerId) -> list[Signed]:
        """Return the signed records of one owner, to be passed on."""
        return [h.signed for h in self.records.of(owner)]

    def signed(self, keys: Iterable[Key]) -> Iterator[Signed]:
        """Yield the signed records with these keys, as far as they are held."""
        for owner, kind, record_id in keys:
            held = self.records.get(owner, kind, record_id)
            if held is not None:
                yield held.signed

    def known(self) -> list[PeerId]:
        """Return every peer that a record is held of, member or not."""
        return list(self.records.owners())

    def forget(self, owner: PeerId) -> None:
        """Drop everything that is held of `owner`, who is no member any more."""
        self.membership.forget(owner)
        self._there.pop(owner, None)
        for held in self.records.of(owner):
            self._count(held)
            if isinstance(held.record, PeerRecord):
                self._pins.pop(held.record.certificate, None)
            else:
                self._remove(owner, held.record.id)
        self._drop_lists(owner)
        self.records.forget(owner)
        self._load.pop(owner, None)
        self.generation += 1

    def touch(self) -> None:
        """Say that something changed that only readers know of."""
        self.generation += 1
        self._lists.clear()

    def _count(self, held: Held) -> None:
        """Bring the digest in step with one record: it counts while its owner is a member."""
        key = (held.owner, *held.key)
        if held.owner in self._there:
            self.digest.put(key, (held.record.version.epoch, held.record.version.counter))
        else:
            self.digest.drop(key)

    def _index(self, held: Held) -> None:
        """Note which services an owner has instances of, and whose certificate is whose."""
        if isinstance(held.record, PeerRecord):
            self._pins[held.record.certificate] = held.owner
            return
        record, key = held.record, (held.owner, held.record.id)
        if record.withdrawn or self._service_of.get(key) not in {None, record.service}:
            self._remove(held.owner, record.id)
        if not record.withdrawn:
            self._service_of[key] = record.service
            owners = self._services.setdefault(record.service, {})
            owners.setdefault(held.owner, set()).add(record.id)

    def _drop(self, void: Held) -> None:
        """Take in that a record is not in the table any more."""
        self.digest.drop((void.owner, *void.key))
        if isinstance(void.record, InstanceRecord):
            self._remove(void.owner, void.record.id)

    def _remove(self, owner: PeerId, gone: InstanceId) -> None:
        """Take an instance out of the service that it was last said to be of."""
        service = self._service_of.pop((owner, gone), None)
        if service is not None:
            instances = self._services[service][owner]
            instances.discard(gone)
            self._lists.pop(service, None)
            if not instances:
                self._unlist(service, owner)
        self._load.get(owner, {}).pop(gone, None)

    def _unlist(self, service: ServiceName, owner: PeerId) -> None:
        owners = self._services[service]
        owners.pop(owner, None)
        if not owners:
            del self._services[service]
            self._lists.pop(service, None)

    def _drop_lists(self, owner: PeerId) -> None:
        for service in self._services_of(owner):
            self._lists.pop(service, None)

    def _services_of(self, owner: PeerId) -> set[ServiceName]:
        held = (h.record for h in self.records.of(owner))
        return {r.service for r in held if isinstance(r, InstanceRecord)}

    def _peer_view(self, peer: PeerId) -> PeerView | None:
        record = self.records.peer(peer)
        if record is None:
            return None
        return PeerView(
            peer,
            record,
            MemberState.ALIVE if peer == self.me else self.membership.state(peer),
            self.distance(peer),
            local=record.machine == self.machine,
        )

    def _list(self, service: ServiceName) -> Iterator[InstanceView]:
        for owner, instances in self._services[service].items():
            peer = self._peer_view(owner) if owner in self._there else None
            if peer is None:
                continue
            suspect = peer.state is MemberState.SUSPECT
            for instance in sorted(instances):
                record = self.records.instance(owner, instance)
                if record is not None and not is_void(record, peer.record):
                    doubtful = suspect or not record.healthy
                    yield InstanceView(owner, record, peer.rtt_s, peer.local, doubtful)


def _length(rtt_s: float | None) -> float:
    return float("inf") if rtt_s is None else rtt_s
