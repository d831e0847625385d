"""Which services Envoy serves, and by which of its own means.

A service is left to the proxy where its definition asks for what Envoy does otherwise or cannot do,
or what has to be counted in one place: a rate that Envoy and the proxy each let through would be
twice the rate. `obstacle` says which that is; people see it in `myxo status`.

Pure: definitions in, words of Envoy out.
"""

from dataclasses import dataclass
from math import log2
from typing import Final

from overlay.balancing import HASHING, PEAK_EWMA, WEIGHTED, Balancing
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec

LEAST_CONCURRENCY = 16
"""Envoy's workers do not see each other's requests, and know of no bound for one instance; what
takes fewer at once is better served by the proxy, which counts each."""

MAX_SERVICES = 512
"""That are in Envoy's routes, which it compares one after the other: some 30 ns each."""

_POLICIES: Final = {
    PEAK_EWMA: "LEAST_REQUEST",
    "round_robin": "ROUND_ROBIN",
    "weighted_round_robin": "ROUND_ROBIN",
    "random": "RANDOM",
    "weighted_random": "ROUND_ROBIN",
    "least_request": "LEAST_REQUEST",
    "weighted_least_request": "LEAST_REQUEST",
    "ring_hash": "RING_HASH",
    "maglev": "MAGLEV",
}
"""Envoy's random takes no weights; the shares of its weighted round robin are the same."""

_WEIGHT_UNIT = 100
"""Envoy's weights are whole numbers, a definition's are not."""

_HERE: Final = 64
"""What an instance of this machine weighs, where distance counts."""

_LEAST_S: Final = 0.001
"""What a request takes at the least: nearer than this by much makes little difference."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An instance as Envoy sees it.

    Attributes:
        address: `host:port`.
        weight: among the others; 1 at least.
        draining: it gets nothing new.
    """

    instance: InstanceId
    address: str
    weight: int = 1
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """Another machine as Envoy sees it: its gateway picks one of a service's instances there.

    Attributes:
        peer: whose gateway it is.
        addresses: host and port of the gateway, the first to be tried first.
        any_of: what the gateway picks among: service and revision.
        weight: of all of them together.
    """

    peer: PeerId
    addresses: tuple[tuple[str, int], ...]
    any_of: str
    weight: int = 1

    @property
    def where(self) -> str:
        """How Envoy calls it."""
        host, port = self.addresses[0]
        return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A service that Envoy serves.

    Attributes:
        version: tells its cluster from those that it had before, which Envoy may still use.
        endpoints: its instances on this machine.
        machines: others that have some.
        pins: SHA-256 of the key that each gateway shows, in hexadecimal; of `machines` at least.
    """

    name: ServiceName
    spec: ServiceSpec
    endpoints: tuple[Endpoint, ...] = ()
    machines: tuple[Machine, ...] = ()
    pins: tuple[tuple[PeerId, str], ...] = ()
    version: int = 1

    @property
    def cluster(self) -> str:
        """The name of its cluster."""
        return f"service/{self.name}/{self.version}"

    @property
    def serves(self) -> bool:
        """Whether any endpoint may get a request."""
        return bool(self.machines) or any(not endpoint.draining for endpoint in self.endpoints)


def obstacle(spec: ServiceSpec) -> str:
    """Return why the proxy itself serves a service; empty if Envoy can."""
    balancing = spec.policy or Balancing()
    found = {
        f"it speaks {spec.protocol}": spec.protocol in {"tcp", "udp"},
        "its rate is limited": spec.rate_limited,
        "its requests are hedged": spec.hedged,
        "its clients are tied by a cookie": bool(spec.sticky),
        "its requests are bounded": bool(spec.max_in_flight or spec.max_pending),
        f"an instance takes fewer than {LEAST_CONCURRENCY} requests": (
            spec.concurrency < LEAST_CONCURRENCY
        ),
        f"its policy is {balancing.name}": balancing.name not in _POLICIES,
        "its policy hashes the path": balancing.name in HASHING and balancing.hash == "path",
    }
    return next((why for why, holds in found.items() if holds), "")


def obstacle_elsewhere(spec: ServiceSpec) -> str:
    """Return why Envoy takes nothing to other machines for a service; empty if it does."""
    if spec.protocol == "h2c":
        return "it speaks h2c and has instances on other machines"
    if (spec.policy or Balancing()).name in HASHING:  # gateways do not hash
        return "its policy hashes and it has instances on other machines"
    return ""


def policy_of(spec: ServiceSpec) -> str:
    """Return Envoy's `lb_policy` for a service."""
    return _POLICIES[(spec.policy or Balancing()).name]


def weight_of(spec: ServiceSpec, weight: float) -> int:
    """Return an endpoint's weight; 0 where it is to get nothing while there is another."""
    if spec.policy is None or spec.policy.name not in WEIGHTED:
        return 1
    return 0 if weight <= 0 else max(1, round(weight * _WEIGHT_UNIT))


def nearness(spec: ServiceSpec, rtt_s: float) -> int:
    """Return a factor of the weight of what is `rtt_s` away, where the policy looks at that.

    Envoy's least request takes the one with the most weight for each request under way there; the
    proxy's default the one with the least time for each. So weights are as one over the time. They
    are powers of two, as each change is written to a file.
    """
    if (spec.policy or Balancing()).name != PEAK_EWMA:
        return 1
    return int(2 ** max(0, round(log2(_HERE / (1 + rtt_s / _LEAST_S)))))


def hashed(spec: ServiceSpec) -> dict[str, object] | None:
    """Return what Envoy's hashing policies hash; None where none is used."""
    if spec.policy is None or spec.policy.name not in HASHING:
        return None
    kind, _, name = (spec.policy.hash or "client").partition(":")
    if kind == "header":
        return {"header": {"header_name": name}}
    if kind == "cookie":
        return {"cookie": {"name": name}}
    return {"connection_properties": {"source_ip": True}}
