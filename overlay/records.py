"""What peers say about themselves: signed, versioned records, the last writer winning per owner.

One record per (owner, kind, id): a peer's own, and one for each of its instances. A record's
version is (epoch, counter): the counter grows with each change, the epoch with each start of the
owner and is persisted before the first publication, so that a restarted peer's first record wins
over its last one without a clock that is trusted to the second. Records have no time-to-live:
they live and die with their owner's membership, which is what keeps a dead machine's instances
out of every view (Kademlia's provider records stay for a day).

Everything here is pure: bytes and `now` in, decisions out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from overlay.errors import RecordRefused, SignatureInvalid
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.signed import Purpose, Signed, sign
from overlay.spec import MOST

MAX_RECORD_BYTES = 16 * 1024
"""A peer record with `MAX_IMAGES` digests has about 9 KiB."""

MAX_IMAGES = 100
"""Digests in a peer's record; the newest are the ones that are asked for."""

MAX_RECORDS_PER_OWNER = 1024
"""A machine runs some hundreds of instances at the most; more is a fault or an attack."""

MAX_OWNERS = 10_000
"""A full view is meant for some thousands of peers; beyond that come regional networks."""

MAX_FUTURE_S = 24 * 3600.0
"""An epoch is the owner's clock at its start; one further ahead would shut its owner out later."""

_Short = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text for people too: nothing in it may steer the terminal on which it is shown."""


class Role(StrEnum):
    """What a daemon does for the network."""

    BOOTSTRAP = "bootstrap"
    REGISTRY = "registry"
    ALLOCATOR = "allocator"
    PROXY = "proxy"
    CLIENT = "client"


class InstanceState(StrEnum):
    """An instance's state as others need it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Version(BaseModel):
    """Orders an owner's records; compared as (epoch, counter)."""

    model_config = ConfigDict(frozen=True)

    epoch: float = Field(allow_inf_nan=False)
    counter: int = Field(ge=0)

    def newer_than(self, other: "Version") -> bool:
        """Whether this version replaces `other`."""
        return (self.epoch, self.counter) > (other.epoch, other.counter)


class Room(BaseModel):
    """What an allocator has left to give.

    Attributes:
        cpu_millicores: not reserved by instances.
        memory_mib: not reserved by instances.
        instances: how many more it would take.
    """

    model_config = ConfigDict(frozen=True)

    cpu_millicores: int
    memory_mib: int
    instances: int


class PeerRecord(BaseModel):
    """A peer about itself.

    Attributes:
        host: the machine's name, for people and metrics.
        machine: tells whether two peers share a network stack; never shown to services.
        addresses: multiaddrs that others may dial, without the peer id.
        gateway: `host:port` of the allocator's gateway; empty if there is none.
        certificate: SHA-256 of the key in the TLS leaf that this peer shows, in hexadecimal.
        control: path of the daemon's Unix socket, for peers on the same machine.
        room: what an allocator has left; None for other roles.
        runtimes: the runtimes that an allocator can start services with.
        platform: `os/architecture`.
        images: config digests of images held, the most useful first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["peer"] = "peer"
    version: Version
    role: Role
    host: _Short
    machine: _Short = ""
    addresses: tuple[_Short, ...] = Field((), max_length=32)
    gateway: tuple[_Short, ...] = Field((), max_length=32)
    certificate: _Short = ""
    control: _Short = ""
    room: Room | None = None
    runtimes: tuple[_Short, ...] = Field((), max_length=8)
    platform: _Short = ""
    images: tuple[Digest, ...] = Field((), max_length=MAX_IMAGES)

    @property
    def id(self) -> str:
        """The record's id among its owner's: an owner has one peer record."""
        return ""


class InstanceRecord(BaseModel):
    """An allocator about one of its instances.

    Attributes:
        address: `host:port` that is dialled on the instance's own machine.
        concurrency: requests that it serves at once.
        withdrawn: the instance is gone; this version only says so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["instance"] = "instance"
    version: Version
    id: Annotated[InstanceId, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    service: Annotated[ServiceName, StringConstraints(pattern=r"^[a-z0-9._:-]{1,63}$")]
    revision: int
    state: InstanceState
    address: _Short = ""
    concurrency: int = Field(ge=1, le=MOST)
    withdrawn: bool = False


Record = PeerRecord | InstanceRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def sign_record(owner: Identity, record: Record) -> Signed:
    """Return `record` signed by its owner."""
    return sign(owner, Purpose.RECORD, record.model_dump_json(exclude_defaults=False).encode())


@dataclass(frozen=True, slots=True)
class Held:
    """A record with the signed bytes that prove it and are passed on verbatim."""

    owner: PeerId
    record: Record
    signed: Signed


@dataclass(slots=True)
class RecordTable:
    """The newest verified record of each (owner, kind, id)."""

    _by_owner: dict[PeerId, dict[tuple[str, str], Held]] = field(default_factory=dict)

    def apply(self, signed: Signed, now: float) -> Held | None:
        """Take `signed` in if it is news; return what is now held, or None for an old version.

        Raises:
            RecordRefused: too large, too many, malformed, dated in the future or wrongly signed.
        """
        held = verified_record(signed, now)
        key = (held.record.kind, held.record.id)
        mine = self._by_owner.get(held.owner)
        if mine is None:
            if len(self._by_owner) >= MAX_OWNERS:
                raise RecordRefused("peers", f"the view is full: {MAX_OWNERS} peers")
            mine = self._by_owner[held.owner] = {}
        known = mine.get(key)
        if known is not None and not held.record.version.newer_than(known.record.version):
            return None
        if known is None and len(mine) >= MAX_RECORDS_PER_OWNER:
            self._drop_void(held.owner)
        if known is None and len(mine) >= MAX_RECORDS_PER_OWNER:
            raise RecordRefused("count", f"{held.owner} has {MAX_RECORDS_PER_OWNER} records")
        mine[key] = held
        return held

    def _drop_void(self, owner: PeerId) -> None:
        """Make room: an owner that has run for months has withdrawn more than it may hold."""
        peer, mine = self.peer(owner), self._by_owner[owner]
        for key, held in list(mine.items()):
            if isinstance(held.record, InstanceRecord) and is_void(held.record, peer):
                del mine[key]

    def forget(self, owner: PeerId) -> None:
        """Drop every record of `owner`."""
        self._by_owner.pop(owner, None)

    def peer(self, owner: PeerId) -> PeerRecord | None:
        """Return the owner's record of itself, if there is one."""
        held = self._by_owner.get(owner, {}).get(("peer", ""))
        return held.record if held is not None and isinstance(held.record, PeerRecord) else None

    def of(self, owner: PeerId) -> Iterator[Held]:
        """Yield what is held of `owner`."""
        yield from self._by_owner.get(owner, {}).values()

    def owners(self) -> Iterator[PeerId]:
        """Yield every owner of at least one record."""
        yield from self._by_owner


def is_void(record: InstanceRecord, owner: PeerRecord | None) -> bool:
    """Whether the instance is gone: withdrawn, or from a life of its owner that has ended."""
    return record.withdrawn or (owner is not None and record.version.epoch < owner.version.epoch)


def verified_record(signed: Signed, now: float) -> Held:
    """Return the record that `signed` carries.

    Raises:
        RecordRefused: see `RecordTable.apply`.
    """
    if len(signed.payload) > MAX_RECORD_BYTES:
        raise RecordRefused("size", f"a record of {len(signed.payload)} bytes is over the limit")
    try:
        signed.verify(Purpose.RECORD)
    except SignatureInvalid as exc:
        raise RecordRefused("signature", str(exc)) from exc
    try:
        record = _RECORD.validate_json(signed.payload)
    except ValidationError as exc:
        raise RecordRefused("malformed", f"{signed.signer} sent no record: {exc}") from exc
    if record.version.epoch > now + MAX_FUTURE_S:
        raise RecordRefused("future", f"{signed.signer}'s epoch is more than a day ahead")
    return Held(signed.signer, record, signed)
