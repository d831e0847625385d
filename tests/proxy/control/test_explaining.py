import json
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest

from overlay.definitions import Definitions
from overlay.http.head import parse_request_head
from overlay.identity import Identity
from overlay.membership import MemberState
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Room,
    Version,
    sign_record,
)
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from overlay.testing import empty_view, meet
from overlay.view import Distance, PeerView, View
from proxy.choosing.starting import Starter
from proxy.control.explaining import MAX_SHOWN, Explainer, WhyQuestion, objection
from proxy.ranking.limits import RttLimits, limits_of
from proxy.ranking.placement import Ranking, rank
from proxy.ranking.selection import Candidate
from proxy.ranking.upstreams import Upstreams
from proxy.telemetry.decisions import Decision, Decisions, Failure, Plan, Waited, asked_of
from proxy.telemetry.explained import explained
from proxy.telemetry.timing import Timing

HELLO = ServiceName("hello")
ALICE, PROXY, THERE = (Identity.from_seed(bytes([n]) * 32) for n in range(3))
SPEC = ServiceSpec(process="serve", soft_rtt_ms=5)
REVISION = SignedRevision.sign(ALICE, Revision(name=HELLO, number=1, spec=SPEC))
NOW = 1_700_000_000.0
HEAD = parse_request_head(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")


def machine(name: str, *, memory_mib: int = 1000) -> PeerView:
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host=name,
        runtimes=("process",),
        room=Room(cpu_millicores=1000, memory_mib=memory_mib, instances=1),
    )
    distance = Distance(0.002, 0.0, measured=True)
    return PeerView(PeerId(name), record, MemberState.ALIVE, distance, local=False)


RANKING = rank(
    [machine("near"), machine("small", memory_mib=0)],
    SPEC.model_copy(update={"memory_mib": 64}),
    limits_of(SPEC),
    {},
)


class Known:
    """What an explainer uses of definitions and of the starter."""

    def get(self, name: ServiceName) -> SignedRevision | None:
        return REVISION if name == HELLO else None

    def ranking(self, revision: SignedRevision, limits: RttLimits) -> Ranking:
        assert (revision, limits) == (REVISION, limits_of(SPEC))
        return RANKING


def view_of(*states: InstanceState) -> View:
    view = empty_view(PROXY, "here")
    peer = PeerRecord(
        version=Version(epoch=NOW, counter=0), role=Role.ALLOCATOR, host="there", machine="there"
    )
    view.apply(sign_record(THERE, peer), NOW)
    meet(view, THERE.peer_id, NOW)
    for number, state in enumerate(states, 1):
        record = InstanceRecord(
            version=Version(epoch=NOW, counter=number),
            id=InstanceId(f"i{number}"),
            service=HELLO,
            revision=1,
            state=state,
            concurrency=1,
        )
        view.apply(sign_record(THERE, record), NOW)
    return view


def explainer(view: View, decisions: Decisions) -> Explainer:
    known = Known()
    definitions, starter = cast("Definitions", known), cast("Starter", known)
    return Explainer(decisions, view, definitions, Upstreams(view, Random(1)), starter, lambda: 0.0)


def decided(decisions: Decisions, view: View) -> Decision:
    """A request that found a full instance, waited, had one started, and lost it once."""
    decision = decisions.begin(asked_of(HEAD), REVISION, SPEC, limits_of(SPEC), Timing(), None)
    instances = view.instances(HELLO)
    decision.instances = instances
    decision.candidates = [Candidate(i, in_flight=1) for i in instances]
    decision.chosen, decision.road, decision.status = instances[0], "gateway", 200
    decision.timing.mark("select")
    plan = Plan("all instances are full", RANKING, ["small: all memory is taken"], PeerId("near"))
    for event in (plan, Waited(0.02), Failure(instances[0], "it closed the connection")):
        decisions.note(decision, event)
    return decision


def ask(asked: Explainer, about: str = "") -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", json.loads(json.dumps(asked.answer(WhyQuestion(about=about)))))


def test_a_request_is_explained_by_its_id_with_all_that_was_weighed() -> None:
    view, decisions = view_of(InstanceState.READY), Decisions()
    decision = decided(decisions, view)
    answer = ask(explainer(view, decisions), decisions.id_of(decision))
    (found,) = answer["decisions"]
    assert answer["now"] is None
    assert found["chosen"] == {"instance": "i1", "host": "there"}
    assert found["limits"] == {"soft_rtt_s": 0.005, "hard_rtt_s": None}
    assert [row["objection"] for row in found["candidates"]] == ["is full"]
    start, wait, failure = found["events"]
    assert start["refused"] == ["small: all memory is taken"]
    (site,) = start["ranking"]["sites"]
    assert site["host"] == "near"
    assert site["cost_s"] == pytest.approx(sum(site["parts_s"].values()))
    assert start["ranking"]["excluded"] == ["small: 0 MiB are free, the service needs 64"]
    assert wait == {"what": "wait", "seconds": 0.02}
    assert failure["reason"] == "it closed the connection"


def test_a_service_without_requests_is_explained_by_what_would_happen_now() -> None:
    view = view_of(InstanceState.PAUSED, InstanceState.STARTING)
    answer = ask(explainer(view, Decisions()), HELLO)
    assert answer["decisions"] == []
    assert answer["now"]["usable"] == 0
    assert [r["objection"] for r in answer["now"]["candidates"]] == ["is paused", "is starting"]
    assert [s["host"] for s in answer["now"]["ranking"]["sites"]] == ["near"]


def test_what_is_over_the_soft_limit_or_full_is_used_all_the_same() -> None:
    view = view_of(InstanceState.READY)
    now = ask(explainer(view, Decisions()), HELLO)["now"]
    assert [row["objection"] for row in now["candidates"]] == ["is over the soft RTT limit"]
    assert now["usable"] == 1


def test_without_a_question_the_last_requests_of_all_services_are_listed() -> None:
    view, decisions = view_of(InstanceState.READY), Decisions()
    for _ in range(MAX_SHOWN + 1):
        decided(decisions, view)
    assert len(ask(explainer(view, decisions))["decisions"]) == MAX_SHOWN


def test_a_start_is_told_of_although_many_requests_came_after_it() -> None:
    view, decisions = view_of(InstanceState.READY), Decisions()
    started = decided(decisions, view)
    for _ in range(MAX_SHOWN * 2):
        decisions.begin(asked_of(HEAD), REVISION, SPEC, limits_of(SPEC), Timing(), None)
    found = ask(explainer(view, decisions), HELLO)["decisions"]
    assert found[-1]["request_id"] == decisions.id_of(started)
    assert len(found) == MAX_SHOWN // 2 + 1


def test_what_nobody_knows_is_answered_with_nothing() -> None:
    answer = ask(explainer(view_of(), Decisions()), "nothing")
    assert (answer["decisions"], answer["now"]) == ([], None)


def test_the_objection_is_the_most_telling_one() -> None:
    (instance,) = view_of(InstanceState.READY).instances(HELLO)
    free = Candidate(instance)
    assert objection(free, 1, RttLimits()) == ""
    assert objection(free, 2, RttLimits()) == "is of revision 1"
    assert objection(Candidate(instance, failed=True), 1, RttLimits()) == "failed a moment ago"
    unwell = replace(
        instance, suspect=True, record=instance.record.model_copy(update={"healthy": False})
    )
    assert objection(Candidate(unwell), 1, RttLimits()) == "fails its health checks"
    assert objection(free, 1, RttLimits(0.001, 0.01)) == "is over the hard RTT limit"
    assert objection(free, 1, RttLimits(0.001, None)) == "is over the soft RTT limit"


def test_what_a_client_is_told_can_stand_in_a_header_whatever_peers_say() -> None:
    view, decisions = view_of(InstanceState.READY), Decisions()
    decision = decided(decisions, view)
    fields = dict(explained(decision, "id\r\nX-Evil: 1", view))
    assert fields[b"X-Request-Id"] == b"id??X-Evil: 1"
    assert fields[b"X-Myxo-Host"] == b"there"
    assert fields[b"X-Myxo-Rtt"] == b"unknown"
