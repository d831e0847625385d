"""Who guards a host's door: under which keys it meets others, and whom it turns away.

A host asks its gate before it dials, when it accepts, and when it has learned who is at the other
end. The gate decides in memory and at once. When it has changed its mind, `Host.review` holds the
connections that are open to it.

Whoever is turned away is told why in one message after the handshake, so that a person who looks
there finds the reason, and not a network that does not answer.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from overlay.errors import PassphraseRefused, PeerRefused, PeerUnreachable
from overlay.names import PeerId
from overlay.signed import Signed

Psk = bytes | None
"""The 32-byte key of a private network's cipher; None in an open network, which has no cipher."""

MAX_REFUSAL_BYTES = 4096
"""A signed ban has some 700 bytes."""


class Reason(StrEnum):
    """Why a peer is turned away."""

    BANNED = "banned"
    PASSPHRASE = "passphrase"  # noqa: S105  (a word for people, no secret)


class Refusal(BaseModel):
    """What a peer that is turned away is told.

    Attributes:
        reason: why, in one word.
        statement: the ban, signed, which proves itself.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    reason: Reason
    statement: Signed | None = None

    def to_bytes(self) -> bytes:
        """Return the message that `from_bytes` reads."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Refusal | None":
        """Return the refusal in `data`, or None if it is none."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return None


def refused_here(peer: PeerId, refusal: Refusal) -> PeerUnreachable:
    """Return the error for a peer that this one turns away."""
    if refusal.reason is Reason.BANNED:
        return PeerRefused(f"{peer} is banned from this network")
    return PassphraseRefused(
        f"{peer} has only a passphrase that was changed since, and was no member before"
    )


def refused_there(refusal: Refusal | None) -> PeerUnreachable:
    """Return the error for a peer that turns this one away."""
    if refusal is None:
        return PeerRefused("it refuses this peer and does not say why")
    if refusal.reason is Reason.BANNED:
        return PeerRefused("it refuses this peer, which is banned from the network")
    return PassphraseRefused(
        "it refuses this peer: the network's passphrase was changed; join with the new one, which "
        "the network's founder has"
    )


class Gate(Protocol):
    """What a host asks."""

    def keys_to_dial(self, peer: PeerId | None) -> Sequence[Psk]:
        """Return the keys to dial under, the likeliest first; `peer` is who is expected."""
        ...

    def keys_to_accept(self) -> Sequence[Psk]:
        """Return the keys that a caller may use, the likeliest first."""
        ...

    def refusal(self, peer: PeerId, psk: Psk) -> Refusal | None:
        """Return why `peer`, met under the key `psk`, is turned away; None if it is welcome."""
        ...

    def turned_away(self, peer: PeerId, refusal: Refusal) -> None:
        """Take in that `peer` turned this one away."""
        ...

    def met(self, peer: PeerId) -> None:
        """Take in that there is a connection with `peer`, with whom there was none."""
        ...


class OneKey:
    """The gate of a network whose passphrase never changes and that shuts nobody out."""

    def __init__(self, psk: Psk) -> None:
        self._psk = psk

    def keys_to_dial(self, peer: PeerId | None) -> Sequence[Psk]:
        """Return the one key."""
        del peer
        return (self._psk,)

    def keys_to_accept(self) -> Sequence[Psk]:
        """Return the one key."""
        return (self._psk,)

    def refusal(self, peer: PeerId, psk: Psk) -> None:
        """Welcome everybody."""
        del peer, psk

    def turned_away(self, peer: PeerId, refusal: Refusal) -> None:
        """Do nothing: the error says it."""

    def met(self, peer: PeerId) -> None:
        """Do nothing."""
