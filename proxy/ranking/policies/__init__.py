"""Selection policies: which of several backends gets the next request.

Pure, one small type each, and the same for the proxy, a map over workers, the load lab and the
queue simulator: whatever has requests in flight somewhere is a `Backend`. Time is passed in and
chance is a `Random`, so a run with the same seed picks the same.
"""

from collections.abc import Callable
from random import Random

from overlay.balancing import ORIGINAL_DESTINATION, PEAK_EWMA, STATIC
from proxy.ranking.policies.backend import Backend, Policy
from proxy.ranking.policies.chance import EvenChance, WeightedChance
from proxy.ranking.policies.fixed import OriginalDestination
from proxy.ranking.policies.hashing import Maglev, RingHash
from proxy.ranking.policies.latency import Latency
from proxy.ranking.policies.least import LeastRequest, WeightedLeastRequest
from proxy.ranking.policies.nearest import Nearest
from proxy.ranking.policies.rotation import RoundRobin, WeightedRoundRobin

__all__ = [
    "Backend",
    "EvenChance",
    "Latency",
    "LeastRequest",
    "Maglev",
    "Nearest",
    "OriginalDestination",
    "Policy",
    "RingHash",
    "RoundRobin",
    "WeightedChance",
    "WeightedLeastRequest",
    "WeightedRoundRobin",
    "policy_named",
]

_MADE: dict[str, Callable[[Random], Policy]] = {
    PEAK_EWMA: Nearest,
    "round_robin": lambda _: RoundRobin(),
    "weighted_round_robin": lambda _: WeightedRoundRobin(),
    "random": EvenChance,
    "weighted_random": WeightedChance,
    "least_request": LeastRequest,
    "weighted_least_request": WeightedLeastRequest,
    "ring_hash": RingHash,
    "maglev": Maglev,
    STATIC: lambda _: WeightedRoundRobin(),
    ORIGINAL_DESTINATION: lambda random: OriginalDestination(Nearest(random)),
}


def policy_named(name: str, random: Random) -> Policy:
    """Return a new policy by its name in a definition; the default where it is not known here."""
    return _MADE.get(name, Nearest)(random)
