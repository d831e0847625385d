"""What a proxy and the process that takes its place say to each other."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from overlay.names import InstanceId, PeerId, ServiceName
from overlay.tunnel import Carries

WANT = "succeed"
"""What the new process asks for at the old one's control socket."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Succeed(_Message):
    """The new process waits at the Unix socket `at`."""

    at: str


class Permission(_Message):
    """The old process gives way, or says why it does not."""

    error: str = ""


class SteppedBack(_Message):
    """The old process is out of the overlay.

    Attributes:
        tls_key: of its certificate, PEM.
        seed: of its identity, where that is kept in no file.
    """

    kind: Literal["stepped_back"] = "stepped_back"
    tls_key: str = Field(repr=False)
    seed: str = Field("", repr=False)


class Ready(_Message):
    """The new process has joined, and accepts once it has the sockets."""

    kind: Literal["ready"] = "ready"
    pid: int


class Listening(_Message):
    """A listening socket comes with this."""

    kind: Literal["listening"] = "listening"
    name: str


class Forwarding(_Message):
    """A port of `myxo forward` comes with this, and the connection of the command that holds it.

    Attributes:
        to: what it leads to, as `hops_of` reads it.
        keep: no command holds it.
    """

    kind: Literal["forwarding"] = "forwarding"
    to: str
    carries: Carries
    keep: bool = False


class AllHandedOver(_Message):
    """There are no more listening sockets."""

    kind: Literal["all_handed_over"] = "all_handed_over"


class Moved(_Message):
    """A client's connection comes with this; no request is under way on it.

    Attributes:
        source: whose it is, for the bounds on connections.
        service, instance: which instance of this machine it is of, where that is known.
        sandboxed: it came in at a sandbox's own 127.0.0.1.
        outside: it came in at the edge.
        received: what was read and not used, as Latin-1.
    """

    kind: Literal["moved"] = "moved"
    source: str = ""
    service: ServiceName | None = None
    instance: InstanceId | None = None
    sandboxed: bool = False
    outside: bool = False
    received: str = ""


class Call(_Message):
    """A call to a peer that the old process cannot make any more."""

    kind: Literal["call"] = "call"
    number: int
    peer: PeerId
    protocol: str
    request: dict[str, Any]
    timeout_s: float


class Refusal(_Message):
    """Why a call was not answered; `code` if the peer said so itself."""

    code: str | None = None
    text: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class CallEnded(_Message):
    """What came of a call."""

    kind: Literal["call_ended"] = "call_ended"
    number: int
    reply: dict[str, Any] | None = None
    refusal: Refusal | None = None


FromOld = SteppedBack | Listening | Forwarding | AllHandedOver | Moved | Call
FromNew = Ready | CallEnded

FROM_OLD: TypeAdapter[FromOld] = TypeAdapter(Annotated[FromOld, Field(discriminator="kind")])
FROM_NEW: TypeAdapter[FromNew] = TypeAdapter(Annotated[FromNew, Field(discriminator="kind")])
