"""The load hosts of a network, as whoever runs experiments sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

InterArrival = float | tuple[str, *tuple[float, ...]]
"""Seconds between requests: a number, or a distribution's name and its parameters."""


MAX_CLIENTS = 256
"""On one host: each is a process of some 40 MB."""

MAX_COUNT = 10**9
"""Requests that a client is told to send at once."""


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client, as its host told last.

    Attributes:
        client: its id, `HOST:SERVICE:N`.
        rps: requests a second it is to send; 0 is a pause.
        sent, failed: requests so far; failed are those without an answer or one of 300 and above.
        queue: requests that are due and not yet sent.
    """

    client: str
    host: str
    service: str
    rps: float
    sent: int
    failed: int
    queue: int


@dataclass(frozen=True, slots=True)
class Spawn:
    """What clients are to ask for.

    Attributes:
        service: a service's name, asked at the host's proxy by the routing table, or a URL.
        num: clients on each host.
        app: the custom client's name; None sends what `parameters` say: method, path, kwargs.
        exp_id: the experiment that their requests belong to; empty for none.
        seed: of every draw; clients differ by their number.
        arrival: the distribution of the times between requests at a rate: `constant`, or
            `expovariate`, whose mean is 1 / rate.
    """

    service: str
    num: int = 1
    app: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    exp_id: str = ""
    seed: int | None = None
    arrival: str = "constant"


class LoadHosts(Protocol):
    """Has load hosts do things; `pattern` is a regular expression on the whole host name.

    Every call raises `NoSuchHost` where a pattern matches nobody, and `LoadFailed` where a host
    that was chosen does not do it.
    """

    async def hosts(self, pattern: str = ".*") -> Sequence[str]:
        """Return the names of the hosts that are there now, sorted."""

    async def clients(self, pattern: str = ".*") -> Sequence[ClientStatus]:
        """Return the clients on those hosts."""

    async def spawn(self, pattern: str, what: Spawn) -> Sequence[str]:
        """Start clients on each of those hosts, which send nothing yet; return their ids."""

    async def rps(self, pattern: str, service: str, rate: float, exp_id: str | None = None) -> None:
        """Have the clients of a service on each host send `rate` requests a second together.

        With `exp_id` those of that experiment alone, so that experiments may run beside each other.
        """

    async def request(
        self, clients: Sequence[str], count: int | None, inter_arrival: InterArrival | None
    ) -> None:
        """Have each client send `count` requests, and return when all were answered or failed.

        None as `count` sends until `rps` says 0 or they are closed; None as `inter_arrival` sends
        each as soon as the one before is answered.
        """

    async def close(self, pattern: str, service: str, exp_id: str | None = None) -> None:
        """End the clients of a service after what they have under way; `exp_id` as for `rps`."""

    async def flush(self) -> None:
        """Return once the traces of all requests that have ended are where traces go."""
