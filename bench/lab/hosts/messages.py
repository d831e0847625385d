"""What whoever commands load hosts says to one, and what it answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from bench.lab.experiments.records import NodeFact, TelemetryRow
from bench.lab.load_hosts import MAX_CLIENTS, MAX_COUNT
from bench.lab.request_trace import RequestTrace
from overlay.signed import Base64, Signed

LAB_PROTOCOL = "/myxo/lab/1.0.0"

MAX_RATE = 1e6
"""Requests a second; no client gets near it."""

MAX_PARAMETERS = 512 * 1024
"""Characters of what a client is given as JSON; an image that it posts is in there."""

MAX_APP_BYTES = 2 * 1024 * 1024
"""Of a custom client, packed: one message, without what it may import of the host's Python."""

MAX_BODY_BYTES = 1024 * 1024
"""Of an answer that is handed back; the rest of a longer one is cut off."""

MAX_WAIT_S = 5.0
"""How long a host keeps a question open until there is something to say."""

_Text = Annotated[str, StringConstraints(max_length=1024)]
_Id = Annotated[str, StringConstraints(max_length=2048)]
_Name = Annotated[str, StringConstraints(max_length=256)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Ids = Annotated[tuple[_Id, ...], Field(min_length=1, max_length=MAX_CLIENTS)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Clients(_Message):
    """Clients, by their ids, or those of a service.

    Attributes:
        exp_id: of a service's clients those of one experiment; None means all.
    """

    clients: _Ids | None = None
    service: _Text = ""
    exp_id: _Name | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Clients":
        if bool(self.service) == bool(self.clients):
            raise ValueError("name a service or clients, and not both")
        return self


class App(_Message):
    """A custom client: its name, and the SHA-256 of its package."""

    name: _Name
    digest: _Digest


class Work(_Message):
    """What a client is to ask for; see `bench.lab.load_hosts.Spawn`."""

    service: Annotated[_Text, StringConstraints(min_length=1)]
    app: App | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    exp_id: _Name = ""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    arrival: _Name = "constant"


class Look(_Message):
    """How are your clients?"""

    do: Literal["look"] = "look"


class SpawnClients(_Message):
    """Start clients. `traced`: whether who asks will take their traces."""

    do: Literal["spawn"] = "spawn"
    num: int = Field(1, ge=1, le=MAX_CLIENTS)
    work: Work
    traced: bool = False


class SetRate(Clients):
    """Have clients send `rate` requests a second together."""

    do: Literal["rate"] = "rate"
    rate: float = Field(ge=0, le=MAX_RATE, allow_inf_nan=False)


class SendRequests(Clients):
    """Have each client send `count` requests, None for no end; answered by a `Begun`.

    Attributes:
        inter_arrival: seconds, a distribution with its parameters, or None: one after the other.
    """

    do: Literal["send"] = "send"
    count: int | None = Field(None, ge=1, le=MAX_COUNT)
    inter_arrival: (
        Annotated[float, Field(ge=0, allow_inf_nan=False)]
        | tuple[_Name, Annotated[tuple[float, ...], Field(max_length=1_000_000)]]
        | None
    ) = None


class AwaitTask(_Message):
    """Has this ended? Answered by a `Progress` at once if so, else after `MAX_WAIT_S`."""

    do: Literal["await"] = "await"
    task: int


class CloseClients(Clients):
    """End clients after what they have under way."""

    do: Literal["close"] = "close"


class TakeTraces(_Message):
    """Give traces; those before number `after` are safe."""

    do: Literal["traces"] = "traces"
    after: int = Field(ge=0)


class FlushTraces(_Message):
    """Have all traces of requests that have ended come to where they are taken."""

    do: Literal["flush"] = "flush"


class Measure(_Message):
    """Say what your machine does at `now`, and with `facts` what it is."""

    do: Literal["measure"] = "measure"
    now: float
    facts: bool = False


class AskOnce(_Message):
    """Send one request and tell what was answered."""

    do: Literal["ask"] = "ask"
    work: Work


class TakeApp(_Message):
    """Keep a custom client's package."""

    do: Literal["app"] = "app"
    name: _Name
    package: Annotated[Base64, Field(max_length=MAX_APP_BYTES)]


class Route(_Message):
    """Do a command on the routing table of the proxy that your clients ask."""

    do: Literal["route"] = "route"
    command: dict[str, Any]


Act = SpawnClients | SetRate | SendRequests | CloseClients | AskOnce | TakeApp | Route
"""What has an effect."""

Order = Annotated[
    Look | AwaitTask | TakeTraces | FlushTraces | Measure | Act, Field(discriminator="do")
]


class Command(_Message):
    """An order, who says that its sender may give it, and what tells it from any other."""

    warrant: Signed
    key: _Name
    order: Order


COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


class ClientRow(_Message):
    """How a client is; see `bench.lab.load_hosts.ClientStatus`."""

    client: str
    service: str
    exp_id: str
    rps: float = 0.0
    sent: int = 0
    failed: int = 0
    queue: int = 0


class Looked(_Message):
    """How a host's clients are, and the last that ended although they were not to."""

    clients: tuple[ClientRow, ...] = ()
    broken: tuple[str, ...] = ()


class Spawned(_Message):
    """The ids of clients that are there now."""

    clients: tuple[str, ...]


class Begun(_Message):
    """The number of what has begun."""

    task: int


class Progress(_Message):
    """Whether something has ended; `trouble` says what went wrong, and is empty if nothing did."""

    ended: bool
    trouble: str = ""


class Done(_Message):
    """It is done, to so many clients."""

    clients: int = 0


class Traces(_Message):
    """Traces that wait.

    Attributes:
        after: what to ask with next.
        dropped: those that were lost for want of room, so far.
    """

    after: int
    traces: tuple[RequestTrace, ...] = ()
    dropped: int = 0


class Flushed(_Message):
    """All traces before this number are there to be taken."""

    end: int


class Measured(_Message):
    """What a machine does, and what it is."""

    rows: tuple[TelemetryRow, ...] = ()
    facts: tuple[NodeFact, ...] = ()


class Answered(_Message):
    """What one request was answered; status -1 and the reason as body where nothing was."""

    status: int
    fields: tuple[tuple[str, str], ...] = ()
    body: Base64 = b""
    took_s: float = 0.0


class Routed(_Message):
    """What each proxy of the host answered."""

    answers: tuple[dict[str, Any], ...]
