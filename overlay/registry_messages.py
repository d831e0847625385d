"""What peers say to a registry peer, and the limits that both ends rely on."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from overlay.signed import Signed

REGISTRY_PROTOCOL = "/myxo/registry/1.0.0"

MAX_DEFINITIONS = 10_000
"""Every proxy and allocator holds all of them."""

MAX_DEFINITION_BYTES = 64 * 1024 * 1024
"""Of all newest revisions together, as they are sent."""

MAX_PAGE_BYTES = 1024 * 1024
"""Revisions sent in one message; a message may have 4 MiB."""

MAX_PAGE_REVISIONS = 100
"""Each signature takes some 0.1 ms to check, during which the receiver does nothing else."""

HEARTBEAT_S = 10.0
"""A watch with nothing to say says so, by which the other end knows that it lives."""

_Name = Annotated[str, Field(max_length=256)]


class RegistryRefusal(StrEnum):
    """Why a registry peer did not do it; the code of the refused call."""

    BAD_NAME = "bad_name"
    BAD_REVISION = "bad_revision"
    CONFLICT = "conflict"
    NOT_OWNER = "not_owner"
    UNKNOWN = "unknown"
    FULL = "full"
    UNAVAILABLE = "unavailable"
    NO_ETCD = "no_etcd"
    NOT_ALLOWED = "not_allowed"
    BUSY = "busy"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Get(_Message):
    """Ask for a name's newest revision; answered by `Found`."""

    op: Literal["get"] = "get"
    name: _Name


class ListAll(_Message):
    """Ask for every service that is not deleted; answered by a stream of `Page`."""

    op: Literal["list"] = "list"


class History(_Message):
    """Ask for a name's kept revisions, the oldest first; answered by a stream of `Page`."""

    op: Literal["history"] = "history"
    name: _Name


class Add(_Message):
    """Add a revision (without a spec: delete the service); answered by `Added`."""

    op: Literal["add"] = "add"
    revision: Signed


class Watch(_Message):
    """Ask for everything now and from now on; answered by a stream of `Page` that does not end.

    Attributes:
        store: the store whose revisions the asker holds; empty if none.
        after: the store revision up to which it holds them.
    """

    op: Literal["watch"] = "watch"
    store: str = Field("", max_length=64)
    after: int = Field(0, ge=0)


class MemberAdd(_Message):
    """Ask to let an etcd member into the cluster; answered by `MemberAdded`."""

    op: Literal["member_add"] = "member_add"
    name: _Name
    peer_url: str = Field(max_length=256, pattern=r"^https?://[^\s,=]+$")


Request = Annotated[Get | ListAll | History | Add | Watch | MemberAdd, Field(discriminator="op")]
REQUEST: TypeAdapter[Get | ListAll | History | Add | Watch | MemberAdd] = TypeAdapter(Request)


class Found(_Message):
    """A name's newest revision."""

    revision: Signed


class Added(_Message):
    """The revision is durable."""

    store_revision: int


class MemberAdded(_Message):
    """What the new member has to be started with.

    Attributes:
        initial_cluster: `NAME=URL,…` of all members; empty if the member was one before.
    """

    initial_cluster: str


class Page(_Message):
    """Some revisions.

    Attributes:
        store: which store they are from.
        store_revision: everything up to here was sent, once `complete`.
        complete: nothing else is to come for now.
        snapshot: the pages up to the next complete one are all there is: forget everything else.
    """

    store: str = ""
    store_revision: int = 0
    complete: bool = True
    snapshot: bool = False
    revisions: tuple[Signed, ...] = ()
