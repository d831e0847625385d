"""The image call: what an allocator asks another about an image, and what it may hear.

The bytes of layers do not go by calls: they are read from the gateway, `GET` with `Range` at
`layer_target`, over TLS where that is possible and over the overlay where it is not.
"""

import base64
import binascii
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from allocator.images.plan import MAX_CONFIG_BYTES, MAX_IMAGE_BYTES, MAX_LAYERS
from overlay.names import Digest
from overlay.signed import Signed

IMAGE_PROTOCOL = "/myxo/image/1.0.0"

LAYERS_TARGET = b"/.myxo/image/"


def layer_target(image: Digest, layer: Digest) -> bytes:
    """Return where a gateway has a layer of an image."""
    return (
        LAYERS_TARGET + f"{image.removeprefix('sha256:')}/{layer.removeprefix('sha256:')}".encode()
    )


def parse_layer_target(target: bytes) -> tuple[Digest, Digest] | None:
    """Return the image and the layer that `target` names; None if it names none."""
    parts = target.removeprefix(LAYERS_TARGET).decode("latin-1").split("/")
    if len(parts) != len(("image", "layer")):
        return None
    image, layer = parts
    return Digest(f"sha256:{image}"), Digest(f"sha256:{layer}")


class ImageRefusal(StrEnum):
    """Why an allocator does not hand on an image; the code of the refused call."""

    ABSENT = "absent"
    UNKNOWN_SERVICE = "unknown_service"
    NOT_SHARED = "not_shared"
    TOO_LARGE = "too_large"
    NO_ROOM = "no_room"
    BUSY = "busy"
    FAILED = "failed"


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as exc:
        raise ValueError("is not base64") from exc


_Bytes = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
]


class ImageRequest(BaseModel):
    """Do you have the image of this service? Prepare to hand it on, if `prepare` says so.

    Attributes:
        revision: the owner-signed revision that names the image.
        prepare: answer when its layers can be read; else at once.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: Signed
    prepare: bool = False


class Layer(BaseModel):
    """A layer that can be read: the sha256 of its tar, and how many bytes that has."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    diff_id: Digest
    size_bytes: int = Field(ge=0, le=MAX_IMAGE_BYTES)


class ImageReply(BaseModel):
    """An image that is there.

    Attributes:
        size_bytes: as the engine counts it.
        config: the very bytes that its digest is of; empty unless it was prepared.
        layers: the lowest first; none unless it was prepared.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    size_bytes: int = Field(ge=0, le=MAX_IMAGE_BYTES)
    config: _Bytes = Field(b"", max_length=MAX_CONFIG_BYTES)
    layers: tuple[Layer, ...] = Field((), max_length=MAX_LAYERS)
