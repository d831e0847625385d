"""Which instance serves a request: feasible, then rank, then pick.

Feasible is what may be used at all: ready, of the newest revision, within the service's hard RTT
limit, not marked as failed and below its concurrency. Of these, instances within the soft limit
come before those over it, and those of a suspect machine only where there is no other. Which of the
best is picked is the choice of the service's policy (`proxy/policies`): by default that with the
least latency to expect, which joins distance and load.

What changes only with the view is worked out once for each view: a `Group`. A request looks at the
few instances that its policy draws, and not at all 250 of a large service.

Pure: instances in, an instance out.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from overlay.balancing import Balancing
from overlay.names import InstanceId, PeerId
from overlay.records import InstanceState
from overlay.view import InstanceView
from proxy.ranking.limits import UNKNOWN_RTT_S, RttLimits
from proxy.ranking.policies import Backend, Policy

Key = tuple[PeerId, InstanceId]
"""What tells an instance from every other in the network."""


@dataclass(slots=True)
class Candidate:
    """An instance with what was known of it in one moment; decisions are explained by these.

    Attributes:
        in_flight: requests being served there, this proxy's and others'.
        service_time_s: smoothed time per request, 0 where none was served yet.
        failed: this proxy lost a connection there a moment ago.
    """

    instance: InstanceView
    in_flight: int = 0
    service_time_s: float = 0.0
    failed: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Upstream(Backend):
    """An instance, and what this proxy has learnt of it.

    Attributes:
        instance: as the view has it.
        elsewhere: returns how many requests its owner says are being served there.
        failed_until: it is left alone until then.
    """

    instance: InstanceView
    elsewhere: Callable[[InstanceView], int]
    failed_until: float = 0.0

    def load(self) -> int:
        """Return how many requests are being served there, this proxy's and others'."""
        mine, all_of_them = self.in_flight, self.elsewhere(self.instance)
        return mine if mine > all_of_them else all_of_them  # noqa: FURB136  (half the time of max)

    def well(self, now: float) -> bool:
        """Return whether it is not to be left alone."""
        return self.failed_until <= now

    def usable(self, now: float) -> bool:
        """Return whether it is well and below its concurrency."""
        return self.failed_until <= now and self.load() < self.instance.record.concurrency

    def busy(self, now: float) -> int:
        """Return the load, or -1 where it is not usable: both in the time of one."""
        if self.failed_until > now:
            return -1
        load = self.load()
        return load if load < self.instance.record.concurrency else -1

    def seen(self, now: float) -> Candidate:
        """Return what is known at `now`."""
        busy_s, failed = self.latency.smoothed_s, self.failed_until > now
        return Candidate(self.instance, self.load(), busy_s, failed)


@dataclass(slots=True, eq=False)
class Group:
    """A service's instances for requests with the same limits, as long as the view is the same.

    Attributes:
        instances: what the view has of the service; another object when that has changed.
        upstreams: what is known of each of them.
        revision: that they were asked for.
        policy: picks among them.
        balancing: what `policy` was made of.
        near: that may be used, within the soft limit.
        far: that may be used, over it.
        suspects: whose machines may be dead.
    """

    instances: Sequence[InstanceView]
    upstreams: Sequence[Upstream]
    revision: int
    policy: Policy
    balancing: Balancing
    near: tuple[Upstream, ...]
    far: tuple[Upstream, ...]
    suspects: tuple[Upstream, ...]

    def seen(self, now: float) -> list[Candidate]:
        """Return every instance with what is known of it at `now`."""
        return [upstream.seen(now) for upstream in self.upstreams]

    def tied(self, name: str, now: float, excluded: Container[Key] = ()) -> Upstream | None:
        """Return the instance that a client is tied to, if it is among those that are best."""
        for upstream in self.near or self.far:
            if upstream.name == name and upstream.usable(now):
                return None if upstream.instance.key in excluded else upstream
        return None

    def pick(
        self, now: float, key: bytes | None = None, excluded: Container[Key] = ()
    ) -> Upstream | None:
        """Return the best instance with room; None where all are full: a new one may be better.

        Args:
            now: in trio's seconds.
            key: what the policy hashes.
            excluded: what the request has found unusable.
        """
        found = self.policy.pick(self.near, now, key) if self.near else None
        if found is None and self.far:
            found = self.policy.pick(self.far, now, key)
        if found is None and self.suspects and not self._well(now, excluded):
            found = self.policy.pick(self.suspects, now, key)
        if found is not None and excluded and found.instance.key in excluded:
            others = [u for u in self._in_use(now, excluded) if u.usable(now)]
            return min(others, key=_wait, default=None)
        return found

    def least_busy(self, now: float, excluded: Container[Key] = ()) -> Upstream | None:
        """Return the one to use where none has room."""
        return min(self._in_use(now, excluded), key=_wait, default=None)

    def last_resort(self, excluded: Container[Key] = ()) -> Upstream | None:
        """Return the one that failed the longest ago: where there is no other, it is tried."""
        rest = [u for u in self.near if u.instance.key not in excluded]
        return min(rest, key=lambda u: u.failed_until, default=None)

    def _in_use(self, now: float, excluded: Container[Key]) -> list[Upstream]:
        return self._well(now, excluded) or [
            u for u in self.suspects if u.well(now) and u.instance.key not in excluded
        ]

    def _well(self, now: float, excluded: Container[Key]) -> list[Upstream]:
        return [u for u in self.near + self.far if u.well(now) and u.instance.key not in excluded]


def tiers(
    upstreams: Iterable[Upstream], *, revision: int, limits: RttLimits
) -> tuple[tuple[Upstream, ...], tuple[Upstream, ...], tuple[Upstream, ...]]:
    """Return those that may be used: within the soft limit, over it, and suspect ones."""
    near: list[Upstream] = []
    far: list[Upstream] = []
    suspects: list[Upstream] = []
    soft_s = limits.soft_s
    for upstream in upstreams:
        instance = upstream.instance
        if not may_serve(instance, revision, limits.hard_s):
            continue
        if instance.suspect:
            suspects.append(upstream)
        else:
            within = soft_s is None or rtt_s(instance) <= soft_s
            (near if within else far).append(upstream)
    return tuple(near), tuple(far), tuple(suspects)


def feasible(
    candidates: Iterable[Candidate], *, revision: int, limits: RttLimits
) -> list[Candidate]:
    """Return the candidates that may serve a request.

    Instances of a suspect machine are left out while there is any other.
    """
    hard_s = limits.hard_s
    usable = [c for c in candidates if may_serve(c.instance, revision, hard_s) and not c.failed]
    return [c for c in usable if not c.instance.suspect] or usable


def has_room(candidate: Candidate) -> bool:
    """Whether the instance is below its concurrency."""
    return candidate.in_flight < candidate.instance.record.concurrency


def expected_latency_s(candidate: Candidate) -> float:
    """Return the latency to expect, in seconds."""
    return rtt_s(candidate.instance) + candidate.service_time_s * (1 + candidate.in_flight)


def may_serve(instance: InstanceView, revision: int, hard_s: float | None) -> bool:
    """Return whether an instance may serve requests for a revision at all."""
    record = instance.record
    return (
        record.state is InstanceState.READY
        and record.revision == revision
        and (hard_s is None or rtt_s(instance) <= hard_s)
    )


def rtt_s(instance: InstanceView) -> float:
    """Return the RTT to an instance in seconds; one that is not known is a long one."""
    if instance.local:
        return 0.0
    return UNKNOWN_RTT_S if instance.rtt_s is None else instance.rtt_s


def _wait(upstream: Upstream) -> tuple[float, float]:
    wait_s = upstream.distance_s + upstream.latency.smoothed_s * (1 + upstream.load())
    return wait_s, upstream.load()
