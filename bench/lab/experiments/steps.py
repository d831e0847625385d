"""What an experiment does, step by step, whether it was written as commands or as a curve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.lab.load_hosts import InterArrival


@dataclass(frozen=True, slots=True)
class SpawnClients:
    """Start clients on each host that `pattern` matches; what else, `Spawn` says."""

    pattern: str
    service: str
    num: int = 1
    app: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arrival: str = "constant"
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SetRate:
    """Have a service's clients send so many requests a second.

    Attributes:
        shared: whether `rate` is that of all hosts together, and not of each.
    """

    pattern: str
    service: str
    rate: float
    shared: bool = False


@dataclass(frozen=True, slots=True)
class SendRequests:
    """Have each of a service's clients send `count` requests, and wait until all are answered.

    Attributes:
        inter_arrival: the times between a client's requests, as `LoadHosts` has them; None sends
            each as soon as the one before is answered.
    """

    pattern: str
    service: str
    count: int
    inter_arrival: InterArrival | None = None


@dataclass(frozen=True, slots=True)
class CloseClients:
    """End a service's clients."""

    pattern: str
    service: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Wait until so many seconds after the first rate was set, so that many waits do not add up."""

    offset_s: float


@dataclass(frozen=True, slots=True)
class Say:
    """Note a line down among the experiment's events."""

    text: str


Step = SpawnClients | SetRate | SendRequests | CloseClients | Sleep | WaitUntil | Say
