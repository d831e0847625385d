import pytest

from overlay.http.head import RequestHead, parse_request_head
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from proxy.ranking.limits import RttLimits
from proxy.telemetry.decisions import (
    KEPT,
    MAX_EVENTS,
    MAX_GIVEN_ID,
    Decision,
    Decisions,
    Plan,
    Waited,
    asked_of,
)
from proxy.telemetry.timing import Timing

SPEC = ServiceSpec(process="serve")
REVISION = SignedRevision.sign(
    Identity.from_seed(b"a" * 32), Revision(name=ServiceName("hello"), number=1, spec=SPEC)
)


def head(*fields: str) -> RequestHead:
    lines = "\r\n".join(["GET /hello HTTP/1.1", "Host: localhost", *fields, "", ""])
    return parse_request_head(lines.encode())


def begin(decisions: Decisions, *fields: str) -> Decision:
    return decisions.begin(asked_of(head(*fields)), REVISION, SPEC, RttLimits(), Timing(), None)


def test_a_given_id_is_kept_and_a_made_one_is_unique() -> None:
    decisions = Decisions()
    given = begin(decisions, "x-request-ID: abc")
    assert decisions.id_of(given) == "abc"
    made = {decisions.id_of(begin(decisions)) for _ in range(10)}
    assert len(made) == 10


@pytest.mark.parametrize("given", ["", "a" * (MAX_GIVEN_ID + 1), "\xe9"])
def test_an_id_that_cannot_be_shown_is_replaced(given: str) -> None:
    assert begin(Decisions(), f"X-Request-Id: {given}").given_id is None


@pytest.mark.parametrize(("value", "explained"), [("1", True), ("0", False), ("yes", False)])
def test_only_who_asks_is_told(value: str, explained: bool) -> None:
    assert begin(Decisions(), f"X-Myxo-Explain: {value}").explained is explained
    assert not begin(Decisions()).explained


def test_the_last_are_kept_and_what_was_notable_outlives_warm_traffic() -> None:
    decisions = Decisions()
    started = begin(decisions)
    decisions.note(started, Plan("a test"))
    decisions.note(started, Waited(0.1))
    warm = [begin(decisions) for _ in range(KEPT + 10)]
    kept = list(decisions.kept())
    assert len(kept) == KEPT + 1
    assert kept[0] is warm[-1]
    assert kept[-1] is started


def test_a_storm_of_happenings_in_one_request_is_bounded() -> None:
    decisions = Decisions()
    one = begin(decisions)
    for _ in range(MAX_EVENTS + 5):
        decisions.note(one, Waited(0.1))
    assert len(one.events) == MAX_EVENTS
    assert len(list(decisions.kept())) == 1
