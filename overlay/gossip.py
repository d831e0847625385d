"""The messages of a gossip stream, as JSON; `mesh.py` says who sends which, and when.

A frame that begins with another byte than a brace is a membership datagram (`datagrams.py`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from overlay.datagrams import MAX_DATAGRAM_BYTES
from overlay.digest import BUCKETS, SUMMARY_BYTES
from overlay.names import PeerId
from overlay.signed import Base64, Signed

GOSSIP_PROTOCOL = "/myxo/gossip/1.0.0"

RECORDS_PER_MESSAGE = 64
"""64 records of 16 KiB are 1.4 MB as base64, under the frame limit of 4 MiB."""

ITEMS_PER_MESSAGE = 4096
"""Versions in one comparison, some 100 bytes each."""

BUCKETS_PER_COMPARISON = 32
"""The rest follow with the next comparison."""

_Version = tuple[str, str, str, float, int]


class Hello(BaseModel):
    """The first message: whether the sender chose the receiver, and what it holds."""

    kind: Literal["hello"] = "hello"
    chosen: bool
    digest: Base64 = Field(min_length=SUMMARY_BYTES, max_length=SUMMARY_BYTES)


class Records(BaseModel):
    """News, verbatim."""

    kind: Literal["records"] = "records"
    records: tuple[Signed, ...] = Field(max_length=RECORDS_PER_MESSAGE)


class Synced(BaseModel):
    """What the receiver's digest lacked has been sent."""

    kind: Literal["synced"] = "synced"


class Digest(BaseModel):
    """What the sender holds, to be compared."""

    kind: Literal["digest"] = "digest"
    digest: Base64 = Field(min_length=SUMMARY_BYTES, max_length=SUMMARY_BYTES)


class Items(BaseModel):
    """The versions that the sender holds in some buckets."""

    kind: Literal["items"] = "items"
    buckets: tuple[Annotated[int, Field(ge=0, lt=BUCKETS)], ...] = Field(
        max_length=BUCKETS_PER_COMPARISON
    )
    versions: tuple[_Version, ...] = Field(max_length=ITEMS_PER_MESSAGE)


class Want(BaseModel):
    """The sender lacks these records."""

    kind: Literal["want"] = "want"
    keys: tuple[tuple[str, str, str], ...] = Field(max_length=ITEMS_PER_MESSAGE)


class Forward(BaseModel):
    """A sealed datagram for a peer that has a stream to the receiver."""

    kind: Literal["forward"] = "forward"
    to: PeerId
    sealed: Base64 = Field(max_length=MAX_DATAGRAM_BYTES)


Message = Hello | Records | Synced | Digest | Items | Want | Forward
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def frame(message: Message) -> bytes:
    """Return a message as the bytes of a frame."""
    return message.model_dump_json().encode()


def parse(data: bytes) -> Message | None:
    """Return the message of a frame, None if it is none."""
    try:
        return _MESSAGE.validate_json(data)
    except ValidationError:
        return None


def is_datagram(data: bytes) -> bool:
    """Whether a frame is a membership datagram rather than a message."""
    return not data.startswith(b"{")
