"""What was decided for the last requests, kept so that it can be asked for.

A request makes one `Decision` and fills it in as it goes: what it wanted, the candidates there
were, what was chosen, and what did not go smoothly. Nothing is rendered before somebody asks
(`explaining.py`), so that a warm request pays for one object and a reference to what selection made
anyway. The ring of the last ones is short; those that are worth asking for, because a start, a
wait, a move or a failure was part of them, have a ring of their own that warm traffic cannot flush.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

from overlay.http.head import RequestHead
from overlay.http.remembering import by_head
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from overlay.view import InstanceView
from proxy.ranking.limits import RttLimits
from proxy.ranking.placement import Ranking
from proxy.ranking.selection import Candidate
from proxy.route import deadlines
from proxy.telemetry.timing import Timing
from proxy.telemetry.traces import Trace

KEPT = 256
"""In each ring. One holds the candidates of its moment: some 100 bytes for each instance."""

MAX_EVENTS = 16
"""More happenings in one request are a storm, of which the first tell enough."""

MAX_GIVEN_ID = 128
"""Of an X-Request-Id that a client gives; a longer one is replaced."""

_REQUEST_ID, _EXPLAIN = b"x-request-id", b"x-myxo-explain"
_TIMEOUTS = frozenset({deadlines.NAME, deadlines.GRPC_HEADER})
_LENGTHS = frozenset(map(len, {_REQUEST_ID, _EXPLAIN, *_TIMEOUTS}))


@dataclass(slots=True)
class Plan:
    """A start as it was planned and went.

    Attributes:
        why: what made it necessary.
        ranking: the machines there were; None until it was looked.
        refused: what those said that were asked in vain, in order.
        asked: the machine that was asked last.
        chosen: the machine that answered with an instance.
        offers: what the best machines said of themselves when they were asked first.
    """

    why: str
    ranking: Ranking | None = None
    refused: list[str] = field(default_factory=list)
    asked: PeerId | None = None
    chosen: PeerId | None = None
    offers: dict[PeerId, str] = field(default_factory=dict)


class Failure(NamedTuple):
    """An attempt that failed before the answer began."""

    instance: InstanceView
    reason: str


class Waited(NamedTuple):
    """A wait for room at a full instance, in seconds."""

    seconds: float


class Hedge(NamedTuple):
    """A second instance that was asked beside the first, which took long."""

    instance: InstanceView


Event = Plan | Failure | Waited | Hedge


@dataclass(eq=False)
class Decision:
    """What one request wanted, and how it was decided.

    It has no slots: what most requests leave as it is costs them nothing in the class.

    Attributes:
        number: tells it from this proxy's others.
        service: what the request is for.
        given_id: the request's id, if the client gave one.
        explained: the client wants to be told in the answer.
        caller: the service that asks, if one does.
        key: what the service's policy hashes, or the instance that the request names.
        tied: the instance that the request's cookie names.
        instances: every instance of the service when it was last selected.
        candidates: as they were known then; of many, only the chosen one.
        chosen: the instance that was selected last.
        excluded: instances that the request found unusable.
        starts: that it asked for.
        allowed_s: how long it may take, in seconds.
        road: the kind of road to the chosen one.
        status: of the answer; 0 until there is one.
        grpc_status: of the answer to a call of gRPC, as it came; b"" where there is none.
        refusal: why the proxy answered itself.
        trace: its part in a distributed trace, if spans are exported.
    """

    number: int
    service: ServiceName
    given_id: bytes | None
    explained: bool
    revision: SignedRevision
    spec: ServiceSpec
    limits: RttLimits
    timing: Timing
    caller: ServiceName | None = None
    key: bytes | None = field(default=None, init=False)
    tied: str | None = field(default=None, init=False)
    instances: Sequence[InstanceView] = field(default=(), init=False)
    candidates: Sequence[Candidate] = field(default=(), init=False)
    chosen: InstanceView | None = field(default=None, init=False)
    excluded: frozenset[tuple[PeerId, InstanceId]] = field(default=frozenset(), init=False)
    starts: int = field(default=0, init=False)
    allowed_s: float = field(default=inf, init=False)
    road: str = field(default="", init=False)
    status: int = field(default=0, init=False)
    grpc_status: bytes = field(default=b"", init=False)
    refusal: str = field(default="", init=False)
    trace: Trace | None = field(default=None, init=False)
    events: tuple[Event, ...] = field(default=(), init=False)

    @property
    def started(self) -> bool:
        """Whether it waited for an instance to be started, or for room."""
        return self.starts > 0


class Asked(NamedTuple):
    """What a client asks of the proxy itself.

    Attributes:
        given_id: the request's id, if it gives one.
        explained: it wants to be told the decision.
        timeout_s: how long it waits, in seconds; None where it does not say.
    """

    given_id: bytes | None = None
    explained: bool = False
    timeout_s: float | None = None


class Decisions:
    """The last decisions of a proxy, in constant space."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._prefix = os.urandom(6).hex()
        self._last: deque[Decision] = deque(maxlen=KEPT)
        self._notable: deque[Decision] = deque(maxlen=KEPT)

    def begin(
        self,
        asked: Asked,
        revision: SignedRevision,
        spec: ServiceSpec,
        limits: RttLimits,
        timing: Timing,
        caller: ServiceName | None,
    ) -> Decision:
        """Return the decision of a request that begins, and keep it."""
        given_id, explained, timeout_s = asked
        number, service = next(self._numbers), revision.revision.name
        made = Decision(
            number, service, given_id, explained, revision, spec, limits, timing, caller
        )
        if timeout_s is not None or spec.timeout_s is not None:
            made.allowed_s = deadlines.allowed_s(spec, timeout_s)
        self._last.append(made)
        return made

    def note(self, decision: Decision, event: Event) -> None:
        """Keep what happened in a request, and the request longer than others."""
        if not decision.events:
            self._notable.append(decision)
        if len(decision.events) < MAX_EVENTS:
            decision.events = (*decision.events, event)

    def id_of(self, decision: Decision) -> str:
        """Return the id of the request."""
        if decision.given_id is not None:
            return decision.given_id.decode("ascii", "replace")
        return f"{self._prefix}-{decision.number:x}"

    def kept(self) -> Iterator[Decision]:
        """Yield the decisions that are kept, the newest first."""
        both = {d.number: d for ring in (self._last, self._notable) for d in ring}
        for number in sorted(both, reverse=True):
            yield both[number]


@by_head
def asked_of(head: RequestHead) -> Asked:
    """Return what a client asks of the proxy itself."""
    given: bytes | None = None
    explained = False
    timeout_s: float | None = None
    for name, value in head.headers:
        if len(name) in _LENGTHS:
            lower = name.lower()
            if lower == _REQUEST_ID:
                usable = 0 < len(value) <= MAX_GIVEN_ID and value.isascii()
                given = value if usable else None
            elif lower == _EXPLAIN:
                explained = value.strip() == b"1"
            elif lower in _TIMEOUTS:
                asked_s = deadlines.asked_s(lower, value)
                timeout_s = asked_s if timeout_s is None else min(timeout_s, asked_s or timeout_s)
    return Asked(given, explained, timeout_s)
