"""Who is shut out of the network, as its admin says.

A ban is a statement about one peer id, signed by the network's admin owner key. For each peer the
statement with the highest version holds, and a lifted ban is a statement like any other: so every
peer can keep all of them, take them from anybody in any order, and comes to the same table. Nothing
else makes a ban: no vote, no suspicion, no other member's word.

A statement names its network, because a person may be the admin of several and anybody may show it
around. Lifted ones are kept: without them, whoever kept the ban could bring it back.

What a ban cannot do: whoever has the passphrase makes a new key in a moment, and with it another
peer id. A ban takes effect at once; only another passphrase shuts a person out (`rotation.py`).

Pure: statements in, decisions out.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overlay.errors import SignatureInvalid, StatementRefused
from overlay.identity import Identity, public_key_of
from overlay.names import PeerId
from overlay.signed import Purpose, Signed, sign
from overlay.statements import LAST_VERSION, YEAR_9999, read_statement

MAX_BANS = 1024
"""Statements that are kept, lifted ones included: 700 KB, which two peers whose tables differ send
each other in one message. Where there is reason for more, the passphrase should be changed."""

MAX_BAN_BYTES = 1024
"""Of a payload; one with the longest host name has some 450."""

_Short = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class Ban(BaseModel):
    """What the admin says about one peer.

    Attributes:
        network: the id of the network in which it holds.
        peer: who is banned, or no longer so.
        version: the highest one about a peer holds.
        lifted: the peer is welcome again.
        at: seconds since the epoch by the admin's clock, for people only.
        host: the machine's name as it was then, for people only.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    network: str = Field(max_length=64)
    peer: PeerId
    version: int = Field(ge=1, le=LAST_VERSION)
    lifted: bool = False
    at: float = Field(0.0, ge=0, le=YEAR_9999)
    host: _Short = ""


@dataclass(frozen=True, slots=True)
class SignedBan:
    """A verified statement with the signed bytes that prove it.

    Make one with `sign` or `verified`: there is no unverified one.
    """

    ban: Ban
    signed: Signed

    @classmethod
    def sign(cls, admin: Identity, ban: Ban) -> Self:
        """Return `ban` signed by the admin's key."""
        payload = ban.model_dump_json(exclude_defaults=True).encode()
        return cls(ban, sign(admin, Purpose.BAN, payload))

    @classmethod
    def verified(cls, signed: Signed, admin: PeerId | None) -> Self:
        """Return the statement that `signed` carries, if it is one of `admin`.

        Raises:
            StatementRefused: it is none, or somebody else's.
        """
        ban = read_statement(signed, admin, Purpose.BAN, Ban, MAX_BAN_BYTES)
        try:
            public_key_of(ban.peer)
        except SignatureInvalid as exc:
            raise StatementRefused(f"it bans nobody: {exc}") from exc
        return cls(ban, signed)

    @property
    def rank(self) -> tuple[int, bool, bytes]:
        """Of two statements about a peer the one of higher rank holds.

        An admin who gives a version twice is at fault; the ban then beats its lifting.
        """
        return self.ban.version, not self.ban.lifted, self.signed.payload


@dataclass(slots=True)
class Bans:
    """The statement that holds about each peer.

    Attributes:
        network: only statements about this network are taken.
    """

    network: str
    _by_peer: dict[PeerId, SignedBan] = field(default_factory=dict)
    _by_signature: dict[bytes, Signed] = field(default_factory=dict)
    _digest: str | None = None

    def take(self, offered: SignedBan) -> bool:
        """Take in a statement; return whether it is news.

        Raises:
            StatementRefused: it is about another network, or the table is full.
        """
        if offered.ban.network != self.network:
            raise StatementRefused(f"it is about another network, {offered.ban.network}")
        peer = offered.ban.peer
        held = self._by_peer.get(peer)
        if held is not None and held.rank >= offered.rank:
            return False
        if held is None and len(self._by_peer) >= MAX_BANS:
            raise StatementRefused(
                f"there are {MAX_BANS} bans and lifted bans already, and no more are kept; "
                "`myxo psk rotate` shuts out whoever is not told the new passphrase"
            )
        self._by_peer[peer] = offered
        self._by_signature[offered.signed.signature] = offered.signed
        if held is not None:
            self._by_signature.pop(held.signed.signature, None)
        self._digest = None
        return True

    def holds(self, signed: Signed) -> bool:
        """Whether this very statement is held: then there is nothing to verify."""
        return self._by_signature.get(signed.signature) == signed

    def of(self, peer: PeerId) -> SignedBan | None:
        """Return the ban that is in force about `peer`."""
        held = self._by_peer.get(peer)
        return None if held is None or held.ban.lifted else held

    def is_banned(self, peer: PeerId) -> bool:
        """Whether `peer` is shut out."""
        return self.of(peer) is not None

    def in_force(self) -> list[SignedBan]:
        """Return the bans that are not lifted, the oldest first."""
        return sorted((b for b in self if not b.ban.lifted), key=lambda b: (b.ban.at, b.ban.peer))

    def next_version(self, peer: PeerId, now: float) -> int:
        """Return a version for a new statement about `peer` that beats every one given so far.

        It grows with the clock, so that an admin whose table was lost still outbids what others
        keep, and with the table, so that a clock that was set back does no harm.
        """
        held = self._by_peer.get(peer)
        return max(int(now * 1000), 1 if held is None else held.ban.version + 1)

    def lacking(self, theirs: Iterable[Signed]) -> list[Signed]:
        """Return the statements held here that are not among `theirs`."""
        there = {signed.signature for signed in theirs}
        return [held.signed for held in self if held.signed.signature not in there]

    def move(self, network: str) -> None:
        """Forget everything: it turned out that the network's id is another one."""
        self.network = network
        self._by_peer.clear()
        self._by_signature.clear()
        self._digest = None

    @property
    def digest(self) -> str:
        """Of the table's contents: two that are equal have the same, whatever their history."""
        if self._digest is None:
            summary = hashlib.sha256(self.network.encode())
            for peer in sorted(self._by_peer):
                summary.update(hashlib.sha256(self._by_peer[peer].signed.payload).digest())
            self._digest = summary.hexdigest()[:32]
        return self._digest

    def __iter__(self) -> Iterator[SignedBan]:
        return iter(self._by_peer.values())

    def __len__(self) -> int:
        return len(self._by_peer)
