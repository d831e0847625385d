"""Signed bytes: a payload, who signed it, and for what purpose.

The signature covers a purpose and the payload exactly as it was received; whoever passes a signed
payload on forwards those bytes verbatim. The purpose keeps a signature for one kind of statement
from being shown as another (a record is no revision).
"""

import base64
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from overlay.identity import Identity, verify
from overlay.names import PeerId


class Purpose(StrEnum):
    """What a signature says; the text is part of what is signed."""

    RECORD = "myxo/record/1"
    REVISION = "myxo/revision/1"
    ALIVE = "myxo/alive/1"
    LEFT = "myxo/left/1"
    BAN = "myxo/ban/1"
    ROTATION = "myxo/rotation/1"
    DEPUTY = "myxo/deputy/1"
    LAB = "myxo/lab/1"


def _decode(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes, BeforeValidator(_decode), PlainSerializer(lambda b: base64.b64encode(b).decode())
]
"""Bytes that travel as base64 text in JSON."""


class Signed(BaseModel):
    """A payload with its signer's id and signature."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    signer: PeerId
    payload: Base64 = Field(repr=False)
    signature: Base64

    def verify(self, purpose: Purpose) -> None:
        """Return if the signature is the signer's for `purpose`.

        Raises:
            SignatureInvalid: it is not.
        """
        verify(self.signer, _message(purpose, self.payload), self.signature)


def sign(identity: Identity, purpose: Purpose, payload: bytes) -> Signed:
    """Return `payload` signed by `identity` for `purpose`."""
    signature = identity.sign(_message(purpose, payload))
    return Signed(signer=identity.peer_id, payload=payload, signature=signature)


def sign_incarnation(identity: Identity, purpose: Purpose, incarnation: int) -> bytes:
    """Return `identity`'s 64-byte signature of being there, or going, in that incarnation.

    The payload is the incarnation alone, 8 bytes big-endian; whose it is, the key says.
    """
    return identity.sign(_message(purpose, _payload_of(incarnation)))


def verify_incarnation(peer: PeerId, purpose: Purpose, incarnation: int, signature: bytes) -> None:
    """Return if `signature` is `peer`'s for `purpose` and `incarnation`.

    Raises:
        SignatureInvalid: it is not.
    """
    verify(peer, _message(purpose, _payload_of(incarnation)), signature)


def _payload_of(incarnation: int) -> bytes:
    return incarnation.to_bytes(8, "big")


def _message(purpose: Purpose, payload: bytes) -> bytes:
    return purpose.encode() + b"\n" + payload
