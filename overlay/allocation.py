"""The allocate call: what a proxy asks an allocator, and what it may hear.

The request carries the signed revision itself, so that an allocator needs no registry to know that
the service's owner said so; the reply carries the ready instance, so that the proxy needs no second
discovery.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from overlay.signed import Signed

ALLOCATE_PROTOCOL = "/myxo/allocate/1.0.0"


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


class AllocateRequest(BaseModel):
    """Start an instance of this revision, or answer with one that is there and has room.

    Attributes:
        revision: the owner-signed revision.
        exclude: ids of instances of this allocator that the caller cannot use (full or failed).
        request_id: ties the allocation to the request that waits for it, in logs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: Signed
    exclude: tuple[str, ...] = Field((), max_length=1024)
    request_id: str = Field("", max_length=128)


class AllocateReply(BaseModel):
    """A ready instance.

    Attributes:
        instance: the signed `InstanceRecord`, in state `ready`.
        phases: where the time went, in seconds, by phase: queue, image, create, start, ready.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: Signed
    phases: dict[str, float] = Field(default_factory=dict)
