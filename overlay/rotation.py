"""A change of the network's passphrase, while everybody goes on working.

The admin's key signs two statements. After *prepare* a peer keeps the new passphrase beside the old
one and accepts both; it still dials under the old one. After *commit* it dials under the new one.
So at each moment what one peer dials under is accepted by every other that has taken the same
statement or the one before, and nothing waits for anybody.

After the commit the old passphrase is worth something only to the peers that the statement lists,
the members at the time, and only for a grace time: a machine that was switched off comes back under
it, proves by its key who it is, and is told the new one by whoever it reaches. Anybody else who has
no more than the old passphrase is nobody.

A network keeps its id, which came from its first passphrase: definitions, containers and epochs are
filed under it. The statement carries it, so that who joins with a later passphrase learns it.

Statements are ordered by (version, stage). A commit that comes to a peer which missed the prepare
does both steps at once; a statement that is older than what is held says nothing.

Pure: statements, texts and `now` in, a new ring out. Deriving keys from texts is slow on purpose
and is left to the caller.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from overlay.errors import StatementRefused
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.records import MAX_OWNERS
from overlay.signed import Purpose, Signed, sign
from overlay.statements import LAST_VERSION, YEAR_9999, read_statement

GRACE_S = 24 * 3600.0
"""A machine that is switched off over night comes back by itself the next day."""

MAX_GRACE_S = 30 * 24 * 3600.0
"""For as long as the old passphrase is of any use, its leak is."""

MAX_MEMBERS = MAX_OWNERS
"""Listed in a statement: as many as a view holds."""

MAX_ROTATION_BYTES = 64 * MAX_MEMBERS
"""Of a payload: 55 bytes a member, and the rest; as base64 below a control socket's line."""

MAX_PREVIOUS = 3
"""Earlier passphrases with a grace time of their own; each is one more key to hold to a caller's
first bytes."""

MAX_EARLIER = 64
"""Ids of earlier passphrases that lead to this ring. Who still names an older one joins anew."""


class Stage(StrEnum):
    """How far a change has come."""

    PREPARE = "prepare"
    COMMIT = "commit"


Stamp = tuple[int, int]
"""Version and stage of a statement, in the order in which they replace each other."""


class Rotation(BaseModel):
    """What the admin says about the passphrase.

    Attributes:
        network: the network's id.
        version: grows with each change.
        stage: prepare or commit.
        replaces: id of the passphrase that was in force before.
        passphrase_id: id of the new one; its text is told apart from this, to members only.
        members: who may be told it, and may show the old one for `grace_s`.
        at: seconds since the epoch by the admin's clock.
        grace_s: seconds from `at` on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    network: str = Field(max_length=64)
    version: int = Field(ge=1, le=LAST_VERSION)
    stage: Stage
    replaces: str = Field(max_length=64)
    passphrase_id: str = Field(max_length=64)
    members: tuple[PeerId, ...] = Field((), max_length=MAX_MEMBERS)
    at: float = Field(0.0, ge=0, le=YEAR_9999)
    grace_s: float = Field(GRACE_S, ge=0, le=MAX_GRACE_S)

    @property
    def stamp(self) -> Stamp:
        """What orders statements."""
        return self.version, int(self.stage is Stage.COMMIT)


@dataclass(frozen=True, slots=True)
class SignedRotation:
    """A verified statement with the signed bytes that prove it."""

    rotation: Rotation
    signed: Signed

    @classmethod
    def sign(cls, admin: Identity, rotation: Rotation) -> Self:
        """Return `rotation` signed by the admin's key."""
        return cls(rotation, sign(admin, Purpose.ROTATION, rotation.model_dump_json().encode()))

    @classmethod
    def verified(cls, signed: Signed, admin: PeerId | None) -> Self:
        """Return the statement that `signed` carries, if it is one of `admin`.

        Raises:
            StatementRefused: it is none, or somebody else's.
        """
        found = read_statement(signed, admin, Purpose.ROTATION, Rotation, MAX_ROTATION_BYTES)
        return cls(found, signed)


class Passphrase(BaseModel):
    """A passphrase and the id that its keys give, which tells nothing about it."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(repr=False)
    id: str


class Previous(BaseModel):
    """A passphrase that was replaced, and for whom and until when it still counts."""

    model_config = ConfigDict(frozen=True)

    passphrase: Passphrase
    members: frozenset[PeerId]
    until: float


class KeyRing(BaseModel):
    """The passphrases of a network as one peer holds them.

    Attributes:
        network: the network's id.
        current: what this peer dials under.
        next: accepted already, between prepare and commit.
        previous: accepted still, the newest first.
        earlier: ids of all passphrases before `current` that are remembered, the newest first.
        statement: the last one that was taken, None if the passphrase never changed.
        stamp: its order; (0, 1) if there is none.
    """

    model_config = ConfigDict(frozen=True)

    network: str
    current: Passphrase
    next: Passphrase | None = None
    previous: tuple[Previous, ...] = ()
    earlier: tuple[str, ...] = ()
    statement: Signed | None = None
    stamp: Stamp = (0, 1)

    @classmethod
    def founded(cls, passphrase: Passphrase) -> Self:
        """Return the ring of a network whose passphrase never changed."""
        return cls(network=passphrase.id, current=passphrase)

    @property
    def stage(self) -> Stage:
        """Whether a change is under way here."""
        return Stage.COMMIT if self.next is None else Stage.PREPARE

    def knows(self, passphrase_id: str) -> bool:
        """Whether the passphrase is one of this network, be it an old one."""
        named = {self.current.id, *self.earlier, *(() if self.next is None else (self.next.id,))}
        return passphrase_id in named

    def check(self, offered: SignedRotation) -> bool:
        """Return whether `offered` is news that concerns this network.

        Raises:
            StatementRefused: it is about another network.
        """
        rotation = offered.rotation
        ours = rotation.network == self.network
        joined_later = self.current.id in {rotation.passphrase_id, rotation.replaces}
        if not ours and not (joined_later and self.statement is None):
            raise StatementRefused(f"it is about another network, {rotation.network}")
        return rotation.stamp > self.stamp

    def take(self, offered: SignedRotation, text: str, now: float) -> "KeyRing":
        """Return the ring after news, which `check` found `offered` to be.

        Args:
            offered: the statement.
            text: the new passphrase; its id has been computed and is the statement's.
            now: seconds since the epoch by this peer's clock.
        """
        rotation = offered.rotation
        new = Passphrase(text=text, id=rotation.passphrase_id)
        ring = self.model_copy(
            update={
                "network": rotation.network,
                "statement": offered.signed,
                "stamp": rotation.stamp,
                "next": new,
            }
        )
        return ring if rotation.stage is Stage.PREPARE else _committed(ring, rotation, now)

    def expired(self, now: float) -> "KeyRing":
        """Return the ring without the passphrases whose grace time is over."""
        left = tuple(p for p in self.previous if now < p.until)
        return self if left == self.previous else self.model_copy(update={"previous": left})

    def next_expiry(self) -> float:
        """Return when `expired` has something to do next, in seconds since the epoch."""
        return min((p.until for p in self.previous), default=float("inf"))

    def accepted(self) -> tuple[str, ...]:
        """Return the ids of the passphrases that a caller may use, the likeliest first."""
        return tuple(dict.fromkeys(p.id for p in self.held()))

    def dialled(self, peer: PeerId | None) -> tuple[str, ...]:
        """Return the ids to dial under, the likeliest first; None is a peer not known before.

        The current one, the next one for who has taken the commit earlier, and then the old ones
        for a member that may not have heard of the change.
        """
        old = (p.passphrase for p in self.previous if peer is None or peer in p.members)
        tried = (self.current, *(() if self.next is None else (self.next,)), *old)
        return tuple(dict.fromkeys(p.id for p in tried))

    def accepts(self, peer: PeerId, passphrase_id: str, now: float) -> bool:
        """Whether `peer` may come with this passphrase."""
        if passphrase_id == self.current.id:
            return True
        if self.next is not None and passphrase_id == self.next.id:
            return True
        return any(
            passphrase_id == p.passphrase.id and peer in p.members and now < p.until
            for p in self.previous
        )

    def held(self) -> Iterable[Passphrase]:
        """Yield every passphrase that is of use, the likeliest first."""
        yield self.current
        if self.next is not None:
            yield self.next
        for previous in self.previous:
            yield previous.passphrase


def _committed(prepared: KeyRing, rotation: Rotation, now: float) -> KeyRing:
    """Return the ring with its next passphrase in force, and the one that it replaces."""
    new, old = prepared.next, prepared.current
    if new is None or new.id == old.id:  # it joined with the new passphrase
        return prepared.model_copy(update={"next": None})
    until = min(rotation.at, now) + rotation.grace_s
    replaced = Previous(passphrase=old, members=frozenset(rotation.members), until=until)
    older = (
        p.model_copy(update={"until": min(p.until, until)})
        for p in prepared.previous
        if p.passphrase.id != new.id
    )
    ring = prepared.model_copy(
        update={
            "current": new,
            "next": None,
            "previous": (replaced, *older)[:MAX_PREVIOUS],
            "earlier": (old.id, *prepared.earlier)[:MAX_EARLIER],
        }
    )
    return ring.expired(now)
