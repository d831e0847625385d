"""What `myxo forward` and a proxy of its machine say to each other, over the control socket."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, TypeAdapter

from overlay.tunnel import Carries

WANT = "forward"
"""Of the control socket."""

Port = Annotated[int, Field(ge=0, le=65535)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Open(_Message):
    """Listen on a port; until the connection ends, or for as long as the proxy runs.

    Attributes:
        to: a service, or a chain as `hops_of` reads it.
        port: 0 is any.
        keep: go on when the connection ends.
    """

    kind: Literal["open"] = "open"
    to: str = Field(max_length=2048)
    host: IPvAnyAddress
    port: Port = 0
    keep: bool = False


class Show(_Message):
    """Say what is forwarded."""

    kind: Literal["show"] = "show"


class Remove(_Message):
    """Listen no more on a port, and end what is open on it."""

    kind: Literal["remove"] = "remove"
    port: Port


Order = Open | Show | Remove
ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])


class Forwarded(_Message):
    """A port that is listened on."""

    listen: str
    to: str
    carries: Carries
    open: int = 0
    keep: bool = False


class Answer(_Message):
    """To an order, and whatever goes wrong afterwards.

    Attributes:
        error: why the order was not followed.
        trouble: why a connection was not carried; comes at any time.
        forwards: what was opened, is there, or was removed.
    """

    error: str = ""
    trouble: str = ""
    forwards: tuple[Forwarded, ...] = ()
