"""How good the estimates of RTTs are between peers that never probed each other."""

import random
from dataclasses import dataclass
from statistics import mean

from bench.sim.latency import Latency
from bench.stats import quantile
from overlay.coordinates import Coordinates, guess
from overlay.names import PeerId

PROBED_SHARE = 0.5
"""Of all pairs, so many probe each other; estimates are judged by the others."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Errors of the pairs that never probed each other.

    Attributes:
        median: of the errors relative to the median RTT of each pair; `p90` likewise.
        held: share of the pairs whose RTT is within the error that the estimate states.
    """

    median: float
    p90: float
    held: float


def estimates(latency: Latency, peers: int, samples: int, rng: random.Random) -> Estimates:
    """Have each peer take so many samples of random peers of its half; judge the other half."""
    clients = [Coordinates(rng) for _ in range(peers)]
    probed = {
        (one, other)
        for one in range(peers)
        for other in range(one + 1, peers)
        if rng.random() < PROBED_SHARE
    }
    partners = [[o for o in range(peers) if (min(p, o), max(p, o)) in probed] for p in range(peers)]
    for _ in range(samples):
        for index, client in enumerate(clients):
            other = rng.choice(partners[index])
            rtt = latency.way(index, other, rng) + latency.way(other, index, rng)
            client.observe(PeerId(f"peer-{other:05}"), clients[other].mine, rtt)
    errors, held = [], []
    for one in range(peers):
        for other in range(one + 1, peers):
            if (one, other) not in probed:
                truth = latency.median_rtt(one, other)
                found = guess(clients[one].mine, clients[other].mine)
                errors.append(abs(found.rtt_s - truth) / truth)
                held.append(abs(found.rtt_s - truth) <= found.error_s)
    return Estimates(quantile(errors, 0.5), quantile(errors, 0.9), mean(held))
