"""The messages between a proxy and the allocator of the same machine, over its Unix socket.

A proxy that dials an instance directly holds a use-lease on it, one an instance however many
requests; it reports what is in flight, and lets go when asked. The connection's end ends all.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from overlay.names import InstanceId


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Hello(_Message):
    """A proxy introduces itself and says where instances of this machine find it."""

    kind: Literal["hello"] = "hello"
    proxy_port: int


class Welcome(_Message):
    """The bridge on which this machine's containers look for the proxy, if there is one."""

    kind: Literal["welcome"] = "welcome"
    bridge_address: str | None = None
    bridge_interface: str | None = None


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


FromProxy = Hello | Acquire | Report | Released
FromAllocator = Welcome | Granted | Refused | Release

FROM_PROXY: TypeAdapter[FromProxy] = TypeAdapter(Annotated[FromProxy, Field(discriminator="kind")])
FROM_ALLOCATOR: TypeAdapter[FromAllocator] = TypeAdapter(
    Annotated[FromAllocator, Field(discriminator="kind")]
)
