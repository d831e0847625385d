"""Which instance serves a request: feasible, then rank, then pick.

Feasible is what may be used at all: ready, of the newest revision, within the service's hard RTT
limit, not marked as failed and below its concurrency. The rank is the latency to expect,
RTT + service time x (1 + requests in flight there), which joins distance and load: the nearest
instance wins until it is busy. The pick is the better of two drawn at random among those that are
nearly as good as the best (power of two choices), so that callers with the same view do not all
rush to one instance.

Pure: candidates and a random source in, a candidate out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from overlay.records import InstanceState
from overlay.view import InstanceView
from proxy.limits import UNKNOWN_RTT_S, RttLimits

NEAR_ENOUGH = 2.0
"""Candidates whose expected latency is within this factor of the best are equals."""

LEAST_LATENCY_S = 0.001
"""Below a millisecond differences are noise: instances on one machine are equals."""


@dataclass(slots=True)
class Candidate:
    """An instance with what this proxy knows of it.

    Attributes:
        in_flight: requests being served there, this proxy's and others'.
        service_time_s: smoothed time per request, 0 where none was served yet.
        failed: this proxy lost a connection there a moment ago.
    """

    instance: InstanceView
    in_flight: int = 0
    service_time_s: float = 0.0
    failed: bool = False


def feasible(
    candidates: Iterable[Candidate], *, revision: int, limits: RttLimits
) -> list[Candidate]:
    """Return the candidates that may serve a request.

    Instances of a suspect machine are left out while there is any other.
    """
    hard_s = limits.hard_s
    usable = [c for c in candidates if _usable(c, revision, hard_s)]
    return [c for c in usable if not c.instance.suspect] or usable


def preferred(candidates: Sequence[Candidate], limits: RttLimits) -> Sequence[Candidate]:
    """Return those of the feasible candidates to pick from.

    One with room comes before a full one, and of those with room one within the soft limit before
    one over it. Nothing is returned where all are full: a new instance may be better.
    """
    free = [c for c in candidates if has_room(c)]
    soft_s = limits.soft_s
    if soft_s is None:
        return free
    return [c for c in free if rtt_s(c.instance) <= soft_s] or free


def has_room(candidate: Candidate) -> bool:
    """Whether the instance is below its concurrency."""
    return candidate.in_flight < candidate.instance.record.concurrency


def expected_latency_s(candidate: Candidate) -> float:
    """Return the latency to expect, in seconds."""
    return rtt_s(candidate.instance) + candidate.service_time_s * (1 + candidate.in_flight)


def pick(candidates: Sequence[Candidate], random: Random) -> Candidate | None:
    """Return the candidate to use, or None if there is none."""
    if len(candidates) < 2:  # noqa: PLR2004
        return candidates[0] if candidates else None
    best = min(expected_latency_s(c) for c in candidates)
    bound = max(best, LEAST_LATENCY_S) * NEAR_ENOUGH
    equals = [c for c in candidates if expected_latency_s(c) <= bound]
    one, other = random.choice(equals), random.choice(equals)
    return min(one, other, key=_busy)


def _busy(candidate: Candidate) -> tuple[int, float]:
    return candidate.in_flight, expected_latency_s(candidate)


def _usable(candidate: Candidate, revision: int, hard_s: float | None) -> bool:
    record = candidate.instance.record
    return (
        record.state is InstanceState.READY
        and record.revision == revision
        and not candidate.failed
        and (hard_s is None or rtt_s(candidate.instance) <= hard_s)
    )


def rtt_s(instance: InstanceView) -> float:
    """Return the RTT to an instance in seconds; one that is not known is a long one."""
    if instance.local:
        return 0.0
    return UNKNOWN_RTT_S if instance.rtt_s is None else instance.rtt_s
