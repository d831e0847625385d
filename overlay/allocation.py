"""The allocate call: what a proxy asks an allocator, and what it may hear.

The request carries the signed revision itself, so that an allocator needs no registry to know that
the service's owner said so; the reply carries the ready instance, so that the proxy needs no second
discovery.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overlay.names import Digest, ServiceName
from overlay.records import Room
from overlay.signed import Signed
from overlay.spec import MOST

ALLOCATE_PROTOCOL = "/myxo/allocate/1.0.0"
OFFER_PROTOCOL = "/myxo/offer/1.0.0"


class AllocationRefusal(StrEnum):
    """Why an allocator did not start an instance; the code of the refused call."""

    NO_ROOM = "no_room"
    NOT_ALLOWED = "not_allowed"
    IMAGE_MISSING = "image_missing"
    RUNTIME_MISSING = "runtime_missing"
    PLATFORM = "platform"
    CONSTRAINT = "constraint"
    BAD_REVISION = "bad_revision"
    NOT_READY = "not_ready"
    FAILED = "failed"
    DRAINING = "draining"
    BUSY = "busy"


class OfferRequest(BaseModel):
    """What would a start of this cost with you? Nothing is begun by asking.

    What it needs is said and not shown: an offer binds nobody, and the start itself carries the
    signed revision.

    Attributes:
        image: its config digest, where it is one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    service: Annotated[ServiceName, StringConstraints(max_length=63)]
    revision: int = Field(ge=1)
    cpu_millicores: int = Field(0, ge=0, le=MOST)
    memory_mib: int = Field(0, ge=0, le=MOST)
    image: Digest | None = None


class Offer(BaseModel):
    """What an allocator has this moment.

    Attributes:
        room: not reserved, and not offered to others a moment ago.
        ahead: starts under way or waiting here, and offers that may become some.
        ready: an instance with room is there.
        starting: one is being started.
        resume_s: seconds until a paused one would answer; None: there is none.
        image: the image is there, or none is needed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    room: Room
    ahead: int = Field(0, ge=0, le=MOST)
    ready: bool = False
    starting: bool = False
    resume_s: float | None = Field(None, ge=0, le=3600, allow_inf_nan=False)
    image: bool = True


class AllocateRequest(BaseModel):
    """Start an instance of this revision, or answer with one that is there and has room.

    Attributes:
        revision: the owner-signed revision.
        exclude: ids of instances of this allocator that the caller cannot use (full or failed).
        request_id: ties the allocation to the request that waits for it, in logs.
        deputy: whom the caller speaks for (`deputy.py`); a service's log is for its owner.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: Signed
    exclude: tuple[str, ...] = Field((), max_length=1024)
    request_id: str = Field("", max_length=128)
    deputy: Signed | None = None


class AllocateReply(BaseModel):
    """A ready instance.

    Attributes:
        instance: the signed `InstanceRecord`, in state `ready`.
        phases: where the time went, in seconds, by phase: queue, image, create, start, ready.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: Signed
    phases: dict[str, float] = Field(default_factory=dict)
