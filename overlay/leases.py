"""The messages between a proxy and the allocator of the same machine, over its Unix socket.

A proxy that dials an instance directly holds a use-lease on it, one an instance however many
requests; it reports what is in flight, and lets go when asked. The connection's end ends all.

One proxy of a machine also answers on 127.0.0.1 inside of its containers: their network sandboxes
hand it their listening sockets. It is told who is in one as soon as somebody is, so that it knows
who calls while the allocator is away; and it asks about those that it was not told of.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from overlay.names import InstanceId, SandboxId, ServiceName

MAX_BRIDGES = 16
"""Containers are on two."""

SandboxName = Annotated[SandboxId, StringConstraints(pattern=r"^[0-9a-z]{1,64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Hello(_Message):
    """A proxy introduces itself.

    Attributes:
        proxy_port: where instances of this machine find it.
        control: the path of its control socket, where chains are led on; empty if nowhere.
    """

    kind: Literal["hello"] = "hello"
    proxy_port: int
    control: str = ""


class Bridge(_Message):
    """A bridge of this machine on which its containers look for the proxy."""

    interface: str
    address: str


class Welcome(_Message):
    """Where this machine's containers look for the proxy; may be said again.

    Attributes:
        bridges: addresses that every proxy listens on.
        sandboxes: the path of the socket by which sandboxes hand over theirs.
        listen: whether this proxy is the one that listens there.
    """

    kind: Literal["welcome"] = "welcome"
    bridges: tuple[Bridge, ...] = Field((), max_length=MAX_BRIDGES)
    sandboxes: str | None = None
    listen: bool = False


class Retiring(_Message):
    """Another process takes the proxy's place: it keeps its leases, and meets no more sandboxes."""

    kind: Literal["retiring"] = "retiring"


class Acquire(_Message):
    """A proxy wants to use an instance directly."""

    kind: Literal["acquire"] = "acquire"
    instance: InstanceId


class Granted(_Message):
    """The instance may be dialled at `address` (`host:port`) until it is released."""

    kind: Literal["granted"] = "granted"
    instance: InstanceId
    address: str


class Refused(_Message):
    """The instance is not there or is about to stop."""

    kind: Literal["refused"] = "refused"
    instance: InstanceId
    reason: str


class Report(_Message):
    """What a proxy did with an instance since its last report."""

    kind: Literal["report"] = "report"
    instance: InstanceId
    in_flight: int = Field(ge=0)
    served: int = Field(0, ge=0)
    service_time_s: float = Field(0.0, ge=0)


class Release(_Message):
    """The allocator asks for the lease back; nothing new may be sent to the instance."""

    kind: Literal["release"] = "release"
    instance: InstanceId


class Released(_Message):
    """The proxy has no request in flight there and holds no lease any more."""

    kind: Literal["released"] = "released"
    instance: InstanceId


class HandedOver(_Message):
    """The proxy answers on 127.0.0.1 in a sandbox from now on."""

    kind: Literal["handed_over"] = "handed_over"
    sandbox: SandboxName


class HandOverEnded(_Message):
    """The sandbox is gone, or the proxy does not listen in it any more."""

    kind: Literal["hand_over_ended"] = "hand_over_ended"
    sandbox: SandboxName


class WhoIsIn(_Message):
    """The proxy asks which instance is in a sandbox."""

    kind: Literal["who_is_in"] = "who_is_in"
    sandbox: SandboxName


class Occupant(_Message):
    """Which instance is in a sandbox, asked for or not; neither name if there is none."""

    kind: Literal["occupant"] = "occupant"
    sandbox: SandboxName
    service: ServiceName | None = None
    instance: InstanceId | None = None


FromProxy = Hello | Retiring | Acquire | Report | Released | HandedOver | HandOverEnded | WhoIsIn
FromAllocator = Welcome | Granted | Refused | Release | Occupant

FROM_PROXY: TypeAdapter[FromProxy] = TypeAdapter(Annotated[FromProxy, Field(discriminator="kind")])
FROM_ALLOCATOR: TypeAdapter[FromAllocator] = TypeAdapter(
    Annotated[FromAllocator, Field(discriminator="kind")]
)
