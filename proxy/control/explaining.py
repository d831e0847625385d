"""Decisions in words, for `myxo why`.

Everything here runs only when somebody asks. What is shown is what was known when the decision was
made: the view may have changed since.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from time import perf_counter, time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from overlay.control import ControlConnection
from overlay.definitions import Definitions
from overlay.names import PeerId, ServiceName
from overlay.records import InstanceState
from overlay.revision import SignedRevision
from overlay.view import InstanceView, View
from proxy.choosing.starting import Starter
from proxy.ranking.limits import RttLimits, limits_of
from proxy.ranking.placement import Ranking
from proxy.ranking.selection import Candidate, expected_latency_s, feasible, has_room, rtt_s
from proxy.ranking.upstreams import Upstreams
from proxy.telemetry.decisions import Decision, Decisions, Event, Failure, Hedge, Plan, Waited

MAX_SHOWN = 20
"""Decisions in one answer."""

MAX_CANDIDATES = 50
"""Instances or machines shown of one decision; an answer stays below a control line's limit."""

MAX_TEXT = 2000
"""Of one reason: a log's end may be a part of it."""


class WhyQuestion(BaseModel):
    """What somebody asks a proxy on its control socket after the want `why`.

    Attributes:
        about: a request's id or a service; empty: the last requests of all services.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    about: str = Field("", max_length=256)


class Explainer:
    """Answers `myxo why` for one proxy.

    Args:
        decisions: what was decided.
        view, definitions, upstreams, starter: what would be decided from now.
        now: trio's clock.

    Attributes:
        others: asks the proxy's other processes for what they decided.
    """

    def __init__(
        self,
        decisions: Decisions,
        view: View,
        definitions: Definitions,
        upstreams: Upstreams,
        starter: Starter,
        now: Callable[[], float],
    ) -> None:
        self._decisions = decisions
        self._view = view
        self._definitions = definitions
        self._upstreams = upstreams
        self._starter = starter
        self._now = now
        self.others: Callable[[str], Awaitable[list[dict[str, Any]]]] | None = None

    async def serve(self, connection: ControlConnection) -> None:
        """Be the `why` want of a control socket."""
        line = await connection.receive()
        if line is None:
            return
        question = WhyQuestion.model_validate_json(line)
        answer = self.answer(question)
        if self.others is not None:
            decisions = [*answer["decisions"], *await self.others(question.about)]
            decisions.sort(key=itemgetter("at"), reverse=True)
            answer["decisions"] = decisions[:MAX_SHOWN]
        await connection.send(answer)

    def answer(self, question: WhyQuestion) -> dict[str, Any]:
        """Return decisions that the question is about, the newest first, and what holds now."""
        about = question.about
        found = [d for d in self._decisions.kept() if self._is_about(d, about)]
        revision = self._definitions.get(ServiceName(about)) if about else None
        return {
            "about": about,
            "decisions": [self._as_json(d) for d in _shown(found)],
            "now": None if revision is None else self._would(revision),
        }

    def _is_about(self, decision: Decision, about: str) -> bool:
        return not about or about in {decision.service, self._decisions.id_of(decision)}

    def _as_json(self, decision: Decision) -> dict[str, Any]:
        return {
            "request_id": self._decisions.id_of(decision),
            "at": time() - (perf_counter() - decision.timing.started),
            "service": decision.service,
            "revision": decision.revision.revision.number,
            "caller": decision.caller,
            "limits": _limits(decision.limits),
            "status": decision.status,
            "refusal": decision.refusal[:MAX_TEXT],
            "chosen": self._chosen(decision.chosen),
            "road": decision.road,
            "instances": len(decision.instances),
            "candidates": self._candidates(decision.candidates, decision),
            "events": [self._event(event) for event in decision.events],
            "phases": [{"phase": p, "seconds": s} for p, s in decision.timing.phases()],
        }

    def _would(self, revision: SignedRevision) -> dict[str, Any]:
        """Return what a request for a service would meet now."""
        name, spec = revision.revision.name, revision.revision.spec
        generation = revision.revision.generation
        if spec is None:
            return {"service": name, "deleted": True}
        limits = limits_of(spec)
        candidates = self._upstreams.candidates(self._view.instances(name), self._now())
        rows = [self._row(c, generation, limits) for c in candidates[:MAX_CANDIDATES]]
        return {
            "service": name,
            "revision": revision.revision.number,
            "limits": _limits(limits),
            "usable": len(feasible(candidates, revision=generation, limits=limits)),
            "candidates": rows,
            "ranking": self._ranking(self._starter.ranking(revision, limits)),
        }

    def _candidates(
        self, candidates: Iterable[Candidate], decision: Decision
    ) -> list[dict[str, Any]]:
        generation, limits = decision.revision.revision.generation, decision.limits
        return [self._row(c, generation, limits) for c in list(candidates)[:MAX_CANDIDATES]]

    def _row(self, candidate: Candidate, revision: int, limits: RttLimits) -> dict[str, Any]:
        instance = candidate.instance
        return {
            "instance": instance.record.id,
            "host": self._host(instance.owner),
            "state": instance.record.state.value,
            "rtt_s": 0.0 if instance.local else instance.rtt_s,
            "in_flight": candidate.in_flight,
            "concurrency": instance.record.concurrency,
            "service_time_s": candidate.service_time_s,
            "expected_s": expected_latency_s(candidate),
            "objection": objection(candidate, revision, limits),
        }

    def _chosen(self, instance: InstanceView | None) -> dict[str, Any] | None:
        if instance is None:
            return None
        return {"instance": instance.record.id, "host": self._host(instance.owner)}

    def _event(self, event: Event) -> dict[str, Any]:
        match event:
            case Plan():
                return {
                    "what": "start",
                    "why": event.why,
                    "refused": [reason[:MAX_TEXT] for reason in event.refused],
                    "chosen": None if event.chosen is None else self._host(event.chosen),
                    "offers": {self._host(p): o for p, o in event.offers.items()},
                    "ranking": None if event.ranking is None else self._ranking(event.ranking),
                }
            case Failure(instance=instance, reason=reason):
                host = self._host(instance.owner)
                return {
                    "what": "failure",
                    "instance": instance.record.id,
                    "host": host,
                    "reason": reason[:MAX_TEXT],
                }
            case Hedge(instance=instance):
                host = self._host(instance.owner)
                return {"what": "hedge", "instance": instance.record.id, "host": host}
            case Waited(seconds=seconds):
                return {"what": "wait", "seconds": seconds}

    def _host(self, peer: PeerId) -> str:
        return self._view.host_of(peer) or peer

    def _ranking(self, ranking: Ranking) -> dict[str, Any]:
        return {
            "sites": [
                {
                    "host": site.allocator.record.host,
                    "peer_id": site.allocator.peer_id,
                    "cost_s": site.cost.total_s,
                    "parts_s": site.cost.parts(),
                }
                for site in ranking.sites[:MAX_CANDIDATES]
            ],
            "excluded": list(ranking.excluded[:MAX_CANDIDATES]),
        }


def _shown(found: Sequence[Decision]) -> list[Decision]:
    """Return the newest decisions, and of older ones those in which something happened."""
    half = MAX_SHOWN // 2
    return [*found[:half], *[d for d in found[half:] if d.events][:half]]


def objection(candidate: Candidate, revision: int, limits: RttLimits) -> str:
    """Return what speaks against an instance, the most telling first; nothing if it is empty."""
    return next(_objections(candidate, revision, limits), "")


def _objections(candidate: Candidate, revision: int, limits: RttLimits) -> Iterator[str]:
    instance = candidate.instance
    away_s = rtt_s(instance)
    if instance.record.revision != revision:
        yield f"is of revision {instance.record.revision}"
    if instance.record.state is not InstanceState.READY:
        yield f"is {instance.record.state}"
    if candidate.failed:
        yield "failed a moment ago"
    if limits.hard_s is not None and away_s > limits.hard_s:
        yield "is over the hard RTT limit"
    if not instance.record.healthy:
        yield "fails its health checks"
    elif instance.suspect:
        yield "does not answer at the moment"
    if not has_room(candidate):
        yield "is full"
    if limits.soft_s is not None and away_s > limits.soft_s:
        yield "is over the soft RTT limit"


def _limits(limits: RttLimits) -> dict[str, float | None]:
    return {"soft_rtt_s": limits.soft_s, "hard_rtt_s": limits.hard_s}
