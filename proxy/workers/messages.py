"""What a proxy and its workers say to each other."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from overlay.mirroring import News
from overlay.names import PeerId, ServiceName
from overlay.registry_messages import Page
from overlay.signed import Base64
from overlay.spec import RateLimit
from proxy.succession.messages import Call, CallEnded, Moved


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Piece(_Message):
    """A part of the text of a message that is too long for one packet."""

    kind: Literal["piece"] = "piece"
    text: str
    last: bool


class Authority(_Message):
    """What of a passphrase's keys the certificates of gateways are checked by."""

    ca_seed: Base64 = Field(repr=False)
    passphrase_id: str


class Keys(_Message):
    """The passphrase in force, and others that are trusted still."""

    kind: Literal["keys"] = "keys"
    network_id: str
    own: Authority
    also: tuple[Authority, ...] = ()


class Begin(_Message):
    """What a worker begins with.

    Attributes:
        settings: of the proxy.
        tls_key: of its certificate, PEM.
    """

    kind: Literal["begin"] = "begin"
    settings: dict[str, Any] = Field(repr=False)
    peer_id: PeerId
    machine: str
    hostname: str
    tls_key: str = Field(repr=False)
    keys: Keys


class Told(_Message):
    """News of the network."""

    kind: Literal["told"] = "told"
    news: tuple[Annotated[News, Field(discriminator="kind")], ...]


class Defined(_Message):
    """News of definitions."""

    kind: Literal["defined"] = "defined"
    page: Page


class Routed(_Message):
    """News of the routing table; no hosts are no record any more."""

    kind: Literal["routed"] = "routed"
    service: ServiceName
    hosts: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


class Listen(_Message):
    """A listening socket comes with this."""

    kind: Literal["listen"] = "listen"
    name: str


class Accept(_Message):
    """The worker knows everything that it needs, and is to accept."""

    kind: Literal["accept"] = "accept"


class Retire(_Message):
    """The worker is to end when what is under way has ended, or after `within_s` seconds.

    Attributes:
        move: connections on which nothing is under way go to the daemon, for the next one.
    """

    kind: Literal["retire"] = "retire"
    within_s: float
    move: bool


class Tell(_Message):
    """The daemon asks for what a worker has counted, or decided `about` a request or a service."""

    kind: Literal["tell"] = "tell"
    number: int
    what: Literal["counts", "why"]
    about: str = ""


class Answer(_Message):
    """The answer to `Tell`."""

    kind: Literal["answer"] = "answer"
    number: int
    content: list[Any]


class Rated(_Message):
    """The rate limits of a service's definition."""

    per_client: RateLimit | None = None
    per_proxy: RateLimit | None = None
    in_all: RateLimit | None = None


class Admit(_Message):
    """The worker asks whether rate limits let a request through."""

    kind: Literal["admit"] = "admit"
    number: int
    service: ServiceName
    client: str
    limits: Rated


class Admitted(_Message):
    """By which limit a request must wait, and how long in seconds; an empty one: it need not."""

    kind: Literal["admitted"] = "admitted"
    number: int
    limit: str = ""
    wait_s: float = 0.0


class Carry(_Message):
    """The worker asks for a connection to a peer's gateway that the overlay carries."""

    kind: Literal["carry"] = "carry"
    number: int
    peer: PeerId


class Carried(_Message):
    """A socket with the connection's bytes comes with this, or it says why there is none."""

    kind: Literal["carried"] = "carried"
    number: int
    error: str = ""


class GivenUp(_Message):
    """Nobody waits for the answer to a call any more."""

    kind: Literal["given_up"] = "given_up"
    number: int


class Accepting(_Message):
    """The worker accepts."""

    kind: Literal["accepting"] = "accepting"


FromDaemon = (
    Piece
    | Begin
    | Keys
    | Told
    | Defined
    | Routed
    | Listen
    | Accept
    | Retire
    | Tell
    | CallEnded
    | Admitted
    | Carried
)
FromWorker = Piece | Accepting | Answer | Call | GivenUp | Admit | Carry | Moved

FROM_DAEMON: TypeAdapter[FromDaemon] = TypeAdapter(
    Annotated[FromDaemon, Field(discriminator="kind")]
)
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="kind")]
)
