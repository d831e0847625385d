"""What peers say about themselves: signed, versioned records, the last writer winning per owner.

One record per (owner, kind, id): a peer's own, and one for each of its instances. A record's
version is (epoch, counter): the counter grows with each change, the epoch with each start of the
owner and is persisted before the first publication, so that a restarted peer's first record wins
over its last one without a clock that is trusted to the second. Records have no time-to-live:
they live and die with their owner's membership, which is what keeps a dead machine's instances
out of every view (Kademlia's provider records stay for a day). `record_table.py` holds them.

Everything here is pure: bytes and `now` in, decisions out.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from overlay.addresses import MAX_PORT
from overlay.errors import RecordRefused, SignatureInvalid
from overlay.identity import Identity
from overlay.labels import Called, Labels
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.signed import Base64, Purpose, Signed, sign
from overlay.spec import MOST, ServiceSpec

MAX_RECORD_BYTES = 16 * 1024
"""A peer record with `MAX_IMAGES` digests has about 9 KiB."""

MAX_IMAGES = 100
"""Digests in a peer's record; the newest are the ones that are asked for."""

MAX_OWNERS = 10_000
"""A full view is meant for some thousands of peers; beyond that come regional networks."""

MAX_COUNTER = 2**63 - 1
"""So that it fits 8 bytes anywhere; an owner that changes every microsecond needs 292,000 years."""

MAX_FUTURE_S = 24 * 3600.0
"""An epoch is the owner's clock at its start; one further ahead would shut its owner out later."""

MAX_RESUME_S = 600.0
"""As long as the slowest start; whoever says more is not worth asking."""

_KEY_BYTES = 32
"""An X25519 public key; no bytes at all stand for none."""

_Short = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text for people too: nothing in it may steer the terminal on which it is shown."""


def _of_key_length(key: bytes) -> bytes:
    if len(key) not in {0, _KEY_BYTES}:
        raise ValueError(f"a key has {_KEY_BYTES} bytes, not {len(key)}")
    return key


_Key = Annotated[Base64, AfterValidator(_of_key_length)]


class Role(StrEnum):
    """What a daemon does for the network."""

    BOOTSTRAP = "bootstrap"
    REGISTRY = "registry"
    ALLOCATOR = "allocator"
    PROXY = "proxy"
    CLIENT = "client"
    LOAD = "load"


class InstanceState(StrEnum):
    """An instance's state as others need it.

    A paused one must not be dialled: it accepts and never answers. Its allocator resumes it.
    """

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"


class Version(BaseModel):
    """Orders an owner's records; compared as (epoch, counter)."""

    model_config = ConfigDict(frozen=True)

    epoch: float = Field(ge=0, allow_inf_nan=False)
    counter: int = Field(ge=0, le=MAX_COUNTER)

    def newer_than(self, other: "Version") -> bool:
        """Whether this version replaces `other`."""
        return (self.epoch, self.counter) > (other.epoch, other.counter)


class Room(BaseModel):
    """What an allocator has left to give.

    Attributes:
        cpu_millicores: not reserved by instances.
        memory_mib: not reserved by instances.
        instances: how many more it would take.
        preemptible_millicores, preemptible_mib, preemptible_instances: reserved, by instances that
            give it back to who needs it; from another one of those only an owner's fair share.
    """

    model_config = ConfigDict(frozen=True)

    cpu_millicores: int
    memory_mib: int
    instances: int
    preemptible_millicores: int = 0
    preemptible_mib: int = 0
    preemptible_instances: int = 0

    @property
    def most(self) -> "Room":
        """What can be had at the most: the allocator decides whether for this instance."""
        return Room(
            cpu_millicores=self.cpu_millicores + self.preemptible_millicores,
            memory_mib=self.memory_mib + self.preemptible_mib,
            instances=self.instances + self.preemptible_instances,
        )

    def less(self, *, cpu_millicores: int, memory_mib: int, instances: int) -> "Room":
        """Return what stays if so much is taken, of what is free first."""
        cpu, preemptible_cpu = _less(
            self.cpu_millicores, self.preemptible_millicores, cpu_millicores
        )
        memory, preemptible_mib = _less(self.memory_mib, self.preemptible_mib, memory_mib)
        count, preemptible_count = _less(self.instances, self.preemptible_instances, instances)
        return Room(
            cpu_millicores=cpu,
            memory_mib=memory,
            instances=count,
            preemptible_millicores=preemptible_cpu,
            preemptible_mib=preemptible_mib,
            preemptible_instances=preemptible_count,
        )

    def fits(self, spec: ServiceSpec) -> bool:
        """Whether one more instance of `spec` may find room."""
        most = self.most
        return (
            most.instances > 0
            and most.cpu_millicores >= spec.cpu_millicores
            and most.memory_mib >= spec.memory_mib
        )


def _less(free: int, preemptible: int, taken: int) -> tuple[int, int]:
    return max(0, free - taken), max(0, preemptible - max(0, taken - free))


class PeerRecord(BaseModel):
    """A peer about itself.

    Attributes:
        host: the machine's name, for people and metrics.
        machine: tells whether two peers share a network stack; never shown to services.
        addresses: multiaddrs that others may dial, without the peer id.
        gateway: `host:port` of the allocator's gateway; empty if there is none.
        ungreeted: the gateway also serves who waits for no word of it, and picks an instance itself
            where a request says of what.
        certificate: SHA-256 of the key in the TLS leaf that this peer shows, in hexadecimal.
        control: path of the daemon's Unix socket, for peers on the same machine.
        room: what an allocator has left; None for other roles.
        runtimes: the runtimes that an allocator can start services with.
        platform: `os/architecture`.
        images: config digests of images held, the most useful first.
        labels: what an allocator's operator calls the machine.
        datagram_key: the X25519 key of this process that datagrams to it are sealed for.
        datagram_port: the UDP port that it receives them on, at each of its addresses; 0: none.
        floor: records of its instances with a lower counter, or from an earlier epoch, are void.
        proof: shows that it knows the network's passphrase; see `trust.py`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["peer"] = "peer"
    version: Version
    role: Role
    host: _Short
    machine: _Short = ""
    addresses: tuple[_Short, ...] = Field((), max_length=32)
    gateway: tuple[_Short, ...] = Field((), max_length=32)
    ungreeted: bool = False
    certificate: _Short = ""
    control: _Short = ""
    room: Room | None = None
    runtimes: tuple[_Short, ...] = Field((), max_length=8)
    platform: _Short = ""
    images: tuple[Digest, ...] = Field((), max_length=MAX_IMAGES)
    labels: Labels = Field(default_factory=dict)
    datagram_key: _Key = b""
    datagram_port: int = Field(0, ge=0, le=MAX_PORT)
    floor: int = Field(0, ge=0, le=MAX_COUNTER)
    proof: _Short = ""

    @model_validator(mode="after")
    def _floor_is_not_above(self) -> "PeerRecord":
        if self.floor > self.version.counter:
            raise ValueError("the floor is above the counter of the record that states it")
        return self

    @property
    def id(self) -> str:
        """The record's id among its owner's: an owner has one peer record."""
        return ""

    @property
    def called(self) -> Called:
        """What the machine is called, by label; what it says of itself beats the operator."""
        given = {label: frozenset({value}) for label, value in self.labels.items()}
        return given | {
            "host": frozenset({self.host}),
            "platform": frozenset({self.platform}),
            "runtime": frozenset(self.runtimes),
        }


class InstanceRecord(BaseModel):
    """An allocator about one of its instances.

    Attributes:
        address: `host:port` that is dialled on the instance's own machine.
        concurrency: requests that it serves at once.
        resume_s: how long its allocator expects to take until it can be used, in seconds; 0 unless
            it is paused.
        healthy: it passes its allocator's checks; others are to be preferred to one that does not.
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
    resume_s: float = Field(0.0, ge=0, le=MAX_RESUME_S)
    healthy: bool = True
    withdrawn: bool = False


Record = PeerRecord | InstanceRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def sign_record(owner: Identity, record: Record) -> Signed:
    """Return `record` signed by its owner."""
    return sign(owner, Purpose.RECORD, record.model_dump_json(exclude_defaults=False).encode())


class Refusal(StrEnum):
    """Why a record is not taken; the text is the metric's label."""

    SIZE = "size"
    SIGNATURE = "signature"
    MALFORMED = "malformed"
    FUTURE = "future"
    OWNER_COUNT = "owner_count"
    OWNER_BYTES = "owner_bytes"
    PEERS = "peers"
    TOTAL_BYTES = "total_bytes"
    STALE = "stale"
    PASSPHRASE = "passphrase"  # noqa: S105  (a label, no secret)


@dataclass(frozen=True, slots=True)
class Held:
    """A record with the signed bytes that prove it and are passed on verbatim.

    Attributes:
        voids: what was dropped when this one was taken: it says that they are void.
    """

    owner: PeerId
    record: Record
    signed: Signed
    voids: "tuple[Held, ...]" = ()

    @property
    def key(self) -> tuple[str, str]:
        """What tells this record from its owner's others."""
        return self.record.kind, self.record.id

    def newer_than(self, other: "Held") -> bool:
        """Whether this replaces `other` of the same key.

        Of two that an owner has signed under one version, against the rules, the same one wins
        everywhere.
        """
        if self.record.version == other.record.version:
            return self.signed.payload > other.signed.payload
        return self.record.version.newer_than(other.record.version)


def is_void(record: InstanceRecord, owner: PeerRecord | None) -> bool:
    """Whether the instance is gone: withdrawn, or its owner has said that the record is void."""
    return record.withdrawn or is_superseded(record, owner)


def is_superseded(record: InstanceRecord, owner: PeerRecord | None) -> bool:
    """Whether the owner's peer record says that the record is void."""
    if owner is None:
        return False
    version = record.version
    return (version.epoch, version.counter) < (owner.version.epoch, owner.floor)


def verified_record(signed: Signed, now: float) -> Held:
    """Return the record that `signed` carries.

    Raises:
        RecordRefused: too large, malformed, dated in the future or wrongly signed.
    """
    if len(signed.payload) > MAX_RECORD_BYTES:
        raise RecordRefused(
            Refusal.SIZE, f"a record of {len(signed.payload)} bytes is over the limit"
        )
    try:
        signed.verify(Purpose.RECORD)
    except SignatureInvalid as exc:
        raise RecordRefused(Refusal.SIGNATURE, str(exc)) from exc
    try:
        record = _RECORD.validate_json(signed.payload)
    except ValidationError as exc:
        raise RecordRefused(Refusal.MALFORMED, f"{signed.signer} sent no record: {exc}") from exc
    if record.version.epoch > now + MAX_FUTURE_S:
        raise RecordRefused(Refusal.FUTURE, f"{signed.signer}'s epoch is more than a day ahead")
    return Held(signed.signer, record, signed)
