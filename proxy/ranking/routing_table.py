"""The routing table: for some services, where requests go whatever is discovered.

A record gives a service targets, `host:port`, and a weight for each, as Galileo's table does. It
beats what the network knows of the service, needs no definition, and holds from the next request
on. A target is any HTTP server that this machine reaches. That is no hole in the proxy: only the
user whose proxy it is can write the table, and a request names a service and never a target.

To the rest of the proxy a target is an instance on this machine, so that retries, limits, traces
and explanations are the same; only the road differs (`routed.py`).

Pure: records in, instances out.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite

from overlay.balancing import MAX_WEIGHT, STATIC, Balancing
from overlay.errors import MyxoError
from overlay.names import InstanceId, PeerId, ServiceName, service_name
from overlay.records import InstanceRecord, InstanceState, Version
from overlay.spec import MOST
from overlay.view import InstanceView

ROUTED = PeerId("routing-table")
"""Owner of what is in the table; no peer's id has a hyphen."""

MAX_RECORDS = 1000
MAX_TARGETS = 1000
"""Of one service. PUMA had 250."""

MAX_UPDATES = 1000
"""That are remembered; older ones are in nobody's way and of nobody's interest."""

BALANCING = Balancing(name=STATIC)

_TARGET = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z](?:[0-9A-Za-z._-]*[0-9A-Za-z])?):([0-9]{1,5})"
)
_MAX_TARGET = 260
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]")


class RouteInvalid(MyxoError):
    """A record that makes no sense; says which part, and what may be there."""


@dataclass(frozen=True, slots=True)
class RoutingRecord:
    """Where requests for a service go.

    Attributes:
        hosts: `host:port` of each target.
        weights: how much each gets, in proportion.
    """

    service: ServiceName
    hosts: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A change of the table, in seconds since the epoch; no record is none any more."""

    at: float
    service: ServiceName
    record: RoutingRecord | None


@dataclass(slots=True)
class _Routed:
    record: RoutingRecord
    weights: dict[InstanceId, float]
    revision: int = -1
    instances: tuple[InstanceView, ...] = ()


@dataclass(slots=True)
class RoutingTable:
    """The records of one proxy, and their last changes.

    Attributes:
        told: called with each change.
    """

    told: Callable[[Update], None] = lambda _: None
    _routed: dict[ServiceName, _Routed] = field(default_factory=dict)
    _updates: deque[Update] = field(default_factory=lambda: deque(maxlen=MAX_UPDATES))

    def __contains__(self, service: ServiceName) -> bool:
        return service in self._routed

    def put(self, record: RoutingRecord, at: float) -> None:
        """Take in a record, instead of one that the service may have.

        Raises:
            RouteInvalid: there are too many.
        """
        if record.service not in self._routed and len(self._routed) >= MAX_RECORDS:
            raise RouteInvalid(f"the table has {MAX_RECORDS} services; unset one first")
        weights = dict(zip(map(_id_of, record.hosts), record.weights, strict=True))
        self._routed[record.service] = _Routed(record, weights)
        self._tell(Update(at, record.service, record))

    def unset(self, service: ServiceName, at: float) -> bool:
        """Forget the record of a service; return whether there was one."""
        if self._routed.pop(service, None) is None:
            return False
        self._tell(Update(at, service, None))
        return True

    def clear(self, at: float) -> int:
        """Forget all records; return how many there were."""
        services = list(self._routed)
        for service in services:
            self.unset(service, at)
        return len(services)

    def records(self) -> list[RoutingRecord]:
        """Return all records, by name."""
        return [self._routed[name].record for name in sorted(self._routed)]

    def updates(self) -> Sequence[Update]:
        """Return the changes that are remembered, in order."""
        return tuple(self._updates)

    def flush(self) -> int:
        """Forget the changes, not the records; return how many there were."""
        count = len(self._updates)
        self._updates.clear()
        return count

    def addresses(self) -> frozenset[str]:
        """Return every target."""
        return frozenset(h for routed in self._routed.values() for h in routed.record.hosts)

    def instances(self, service: ServiceName, revision: int) -> tuple[InstanceView, ...]:
        """Return a service's targets as instances of a revision, the same until they change."""
        routed = self._routed[service]
        if routed.revision != revision:
            routed.instances = tuple(_instances(routed.record, revision))
            routed.revision = revision
        return routed.instances

    def weight(self, instance: InstanceView) -> float:
        """Return the weight of a target."""
        return self._routed[instance.record.service].weights[instance.record.id]

    def keys(self) -> Iterator[tuple[PeerId, InstanceId]]:
        """Yield what tells targets from instances."""
        for routed in self._routed.values():
            for name in routed.weights:
                yield ROUTED, name

    def _tell(self, update: Update) -> None:
        self._updates.append(update)
        self.told(update)


def routing_record(
    service: str, hosts: Sequence[str], weights: Sequence[float] | None = None
) -> RoutingRecord:
    """Return a record, checked; targets without weights get equal shares.

    Raises:
        InvalidName, RouteInvalid: saying what is wrong with it.
    """
    if not 0 < len(hosts) <= MAX_TARGETS:
        raise RouteInvalid(f"{service} needs 1 to {MAX_TARGETS} hosts, not {len(hosts)}")
    weights = [1.0] * len(hosts) if weights is None else weights
    if len(weights) != len(hosts):
        raise RouteInvalid(
            f"{len(hosts)} hosts and {len(weights)} weights: each host needs one weight"
        )
    for host in hosts:
        _check_target(host)
    if len(set(map(_id_of, hosts))) < len(hosts):
        raise RouteInvalid("a host is there twice; give it the sum of its weights")
    for weight in weights:
        if not isfinite(weight) or not 0 <= weight <= MAX_WEIGHT:
            raise RouteInvalid(f"{weight:g} is no weight; allowed: 0 to {MAX_WEIGHT:g}")
    if not any(weights):
        raise RouteInvalid("one weight at least must be over 0")
    return RoutingRecord(service_name(service), tuple(hosts), tuple(map(float, weights)))


def _check_target(host: str) -> None:
    found = _TARGET.fullmatch(host) if len(host) <= _MAX_TARGET else None
    if found is None or not 0 < int(found[2]) < 2**16:
        raise RouteInvalid(
            f"{host[:80]!r} is no target; allowed: HOST:PORT, such as einstein:8080 or [::1]:8080"
        )


def _id_of(host: str) -> InstanceId:
    return InstanceId(_UNNAMEABLE.sub("-", host)[-128:])


def _instances(record: RoutingRecord, revision: int) -> Iterator[InstanceView]:
    for host in record.hosts:
        target = InstanceRecord(
            version=Version(epoch=0.0, counter=1),
            id=_id_of(host),
            service=record.service,
            revision=revision,
            state=InstanceState.READY,
            address=host,
            concurrency=MOST,
        )
        yield InstanceView(ROUTED, target, rtt_s=0.0, local=True, suspect=False)
