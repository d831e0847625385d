"""Which services Envoy serves, and by which of its own means.

A service is left to the proxy where its definition asks for what Envoy does otherwise or cannot do,
or what has to be counted in one place: a rate that Envoy and the proxy each let through would be
twice the rate. `obstacle` says which that is; people see it in `myxo status`.

Pure: definitions in, words of Envoy out.
"""

from dataclasses import dataclass
from typing import Final

from overlay.balancing import HASHING, PEAK_EWMA, WEIGHTED, Balancing
from overlay.names import InstanceId, ServiceName
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
class Mapped:
    """A service that Envoy serves."""

    name: ServiceName
    spec: ServiceSpec
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether any endpoint may get a request."""
        return any(not endpoint.draining for endpoint in self.endpoints)


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


def policy_of(spec: ServiceSpec) -> str:
    """Return Envoy's `lb_policy` for a service."""
    return _POLICIES[(spec.policy or Balancing()).name]


def weight_of(spec: ServiceSpec, weight: float) -> int:
    """Return an endpoint's weight; 0 where it is to get nothing while there is another."""
    if spec.policy is None or spec.policy.name not in WEIGHTED:
        return 1
    return 0 if weight <= 0 else max(1, round(weight * _WEIGHT_UNIT))


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
