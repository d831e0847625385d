"""What a service is: the specification that a revision carries, normalised and checked.

People write `service-conf.json` or YAML (read by `registry/conf/`); what comes out of it is this.
Fields named `*_ms` are milliseconds, as the files have them; everything that computes with them
uses the `*_s` properties, in seconds.
"""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overlay.balancing import Balancing, Sticky
from overlay.labels import Constraints
from overlay.names import Digest

DEFAULT_CONCURRENCY = 100
DEFAULT_IDLE_PAUSE_S = 30.0
DEFAULT_IDLE_STOP_S = 300.0
DEFAULT_PORT = 8080
DEFAULT_READY_TIMEOUT_S = 30.0
DEFAULT_TUNNEL_IDLE_S = {"udp": 60.0, "tcp": 3600.0}
"""Who sends datagrams never says that it is done."""

DEFAULT_HEALTH_INTERVAL_S = 10.0
DEFAULT_HEALTH_FAILURES = 3
DEFAULT_EJECT_AFTER = 5
DEFAULT_RETRY_PERCENT = 20.0

MAX_S = 86400.0
"""Of any time that one request, or the next check, may take."""

MAX_PREEMPT_GRACE_S = 600.0
"""What needs the room runs beside an instance that is about to give it back for no longer."""

MOST_FAILURES = 1000
MOST_STATUSES = 100

MOST = 2**31
"""Of anything that is counted. Whoever reckons with a number that a peer sent may need a float."""

MOST_KEPT = 1000
"""Instances of one service that are kept: as many as an owner's records may name."""

Protocol = Literal["http1", "h2c", "tcp", "udp"]
"""What an instance speaks on its port. Who speaks HTTP gets requests; all but udp take tunnels."""

Network = Literal["outside", "none"]
"""Where an instance's own connections may go: anywhere, or to its machine's proxy alone."""

_EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
_ServerError = Annotated[int, Field(ge=500, le=599)]
_Text = Annotated[str, StringConstraints(max_length=4096)]


class Image(BaseModel):
    """A container image, by content.

    Attributes:
        reference: the name it was added under, such as `alice/hello:1.0`; for people and for pulls.
        config_digest: sha256 of the OCI config: the image's identity on every engine.
        repo_digest: `NAME@sha256:…` where it was pushed; None for an image that is in no registry.
        platforms: `os/architecture` it runs on.
        size_bytes: as the engine that it was added from counts it; None where nobody counted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    reference: _Text
    config_digest: Digest
    repo_digest: _Text | None = None
    platforms: tuple[str, ...] = ("linux/amd64",)
    size_bytes: int | None = Field(None, ge=0, le=2**53)


class RateLimit(BaseModel):
    """So many requests a second on average, and so many at once.

    Attributes:
        per_s: requests a second.
        burst: requests that may come at once after a silence.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    per_s: float = Field(gt=0, le=MOST)
    burst: int = Field(1, ge=1, le=MOST)


class ServiceSpec(BaseModel):
    """One revision's definition of a service.

    Environment and commands may hold secrets: no text that is made of a definition shows them.

    Attributes:
        image: for the container runtime; exactly one of `image` and `process` is set.
        process: a shell command for the process runtime.
        command: overrides the image's own command; run by a shell.
        port: where the service listens inside its container; the process runtime chooses one.
        protocol: what it speaks there.
        tunnel_idle_s: seconds after which a tunnel in which nothing moves is ended; None leaves it
            to the protocol (`tunnel_bound_s`).
        soft_rtt_ms: over it a better instance is looked for; None is no wish.
        hard_rtt_ms: over it an instance is not used at all; None is no limit.
        constraints: for some labels, the values that a machine must have one of, or not have.
        prefer: the same as a wish: a machine that does not meet it is used where no other is near.
        cpu_millicores: reserved and enforced; 0 is no requirement.
        memory_mib: reserved and enforced, in MiB; 0 is no requirement.
        concurrency: requests that one instance serves at once before another is started.
        max_instances: bound over the network, 0 is none.
        min_instances: kept over the network, asked for or not; 0 is none.
        min_state: how those are kept: `running`, or `paused` once they are idle.
        idle_pause_s: seconds without a request after which an instance is paused; 0 is never.
        idle_stop_s: seconds without a request after which an instance is stopped.
        ready_timeout_s: seconds within which a started instance must accept connections.
        preempt_grace_s: another service may have an instance's room, and the instance then has so
            many seconds to end what it is at; None: it keeps its room.
        idempotent: every request may be sent again after a failure, POST too.
        health: a path that must answer 2xx before the instance counts as ready; None: TCP only.
        health_interval_s: seconds between checks of `health` while it is ready; 0: none then.
        health_failures: failed checks in a row after which requests avoid an instance; after twice
            as many it is replaced.
        eject_after: failed requests in a row after which a proxy avoids an instance; 0 is never.
        retry_percent: of its requests, how many more a proxy may send again after failures.
        retry_statuses: answers in whose place another instance's is asked for, if there is one.
        hedge_ms: after so long without an answer a request is sent to a second instance too.
        hedge_percentile: the same after as long as that share of its last answers took; where both
            are given, whichever is later.
        timeout_s: seconds within which a request must be answered to its end; None is no bound.
        max_in_flight: requests that a proxy has under way for the service; 0 is no bound.
        max_pending: requests that wait at a proxy for an instance; 0 is the proxy's own bound.
        rate_limit: of all requests, at each proxy.
        client_rate_limit: of each client's requests, at each proxy.
        global_rate_limit: of all requests, over the network.
        read_only: the container's root file system is read-only.
        cap_drop_all: every capability is dropped, not only the dangerous ones.
        network: `none` leaves a container no way out but through its machine's proxy.
        policy: how requests are spread over the instances; None is the default policy.
        sticky: the cookie by which a client stays with an instance; False: none is set.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    image: Image | None = None
    process: _Text | None = Field(None, repr=False)
    command: _Text | None = Field(None, repr=False)
    port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    protocol: Protocol = "http1"
    tunnel_idle_s: float | None = Field(None, gt=0, le=MOST)
    env: dict[_EnvName, _Text] = Field(default_factory=dict, max_length=256, repr=False)
    soft_rtt_ms: float | None = Field(None, gt=0)
    hard_rtt_ms: float | None = Field(None, gt=0)
    constraints: Constraints = Field(default_factory=dict)
    prefer: Constraints = Field(default_factory=dict)
    cpu_millicores: int = Field(0, ge=0, le=MOST)
    memory_mib: int = Field(0, ge=0, le=MOST)
    concurrency: int = Field(DEFAULT_CONCURRENCY, ge=1, le=MOST)
    max_instances: int = Field(0, ge=0, le=MOST)
    min_instances: int = Field(0, ge=0, le=MOST_KEPT)
    min_state: Literal["running", "paused"] = "running"
    idle_pause_s: float = Field(DEFAULT_IDLE_PAUSE_S, ge=0)
    idle_stop_s: float = Field(DEFAULT_IDLE_STOP_S, gt=0)
    ready_timeout_s: float = Field(DEFAULT_READY_TIMEOUT_S, gt=0, le=600)
    preempt_grace_s: float | None = Field(None, gt=0, le=MAX_PREEMPT_GRACE_S)
    idempotent: bool = False
    health: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=1024)] | None = None
    health_interval_s: float = Field(DEFAULT_HEALTH_INTERVAL_S, ge=0, le=MAX_S)
    health_failures: int = Field(DEFAULT_HEALTH_FAILURES, ge=1, le=MOST_FAILURES)
    eject_after: int = Field(DEFAULT_EJECT_AFTER, ge=0, le=MOST_FAILURES)
    retry_percent: float = Field(DEFAULT_RETRY_PERCENT, ge=0, le=100)
    retry_statuses: tuple[_ServerError, ...] = Field((), max_length=MOST_STATUSES)
    hedge_ms: float | None = Field(None, gt=0, le=MAX_S * 1000)
    hedge_percentile: float | None = Field(None, ge=50, le=99.9)
    timeout_s: float | None = Field(None, gt=0, le=MAX_S)
    max_in_flight: int = Field(0, ge=0, le=MOST)
    max_pending: int = Field(0, ge=0, le=MOST)
    rate_limit: RateLimit | None = None
    client_rate_limit: RateLimit | None = None
    global_rate_limit: RateLimit | None = None
    read_only: bool = False
    cap_drop_all: bool = False
    network: Network = "outside"
    policy: Balancing | None = None
    sticky: Sticky = False

    @property
    def tunnel_bound_s(self) -> float:
        """Seconds after which a tunnel in which nothing moves is ended."""
        if self.tunnel_idle_s is not None:
            return self.tunnel_idle_s
        return DEFAULT_TUNNEL_IDLE_S["udp" if self.protocol == "udp" else "tcp"]

    @property
    def runtime(self) -> Literal["docker", "process"]:
        """The runtime that the service needs."""
        return "process" if self.process is not None else "docker"

    @property
    def preemptible(self) -> bool:
        """Whether an instance gives its room back when another service needs it."""
        return self.preempt_grace_s is not None

    @cached_property
    def hedged(self) -> bool:
        """Whether a request may be sent to a second instance when the first is slow."""
        return self.hedge_ms is not None or self.hedge_percentile is not None

    @cached_property
    def rate_limited(self) -> bool:
        """Whether any rate limit is set."""
        limits = self.rate_limit, self.client_rate_limit, self.global_rate_limit
        return limits != (None, None, None)

    @cached_property
    def soft_rtt_s(self) -> float | None:
        """The soft RTT limit in seconds."""
        return None if self.soft_rtt_ms is None else self.soft_rtt_ms / 1000

    @cached_property
    def hard_rtt_s(self) -> float | None:
        """The hard RTT limit in seconds."""
        return None if self.hard_rtt_ms is None else self.hard_rtt_ms / 1000
