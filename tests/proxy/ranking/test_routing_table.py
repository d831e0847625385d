from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InvalidName
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.testing import empty_view
from proxy.ranking.limits import RttLimits
from proxy.ranking.routing_table import (
    MAX_RECORDS,
    MAX_UPDATES,
    ROUTED,
    RouteInvalid,
    RoutingTable,
    Update,
    routing_record,
)
from proxy.ranking.upstreams import Upstreams

NET = ServiceName("squeezenet")
TWO = routing_record("squeezenet", ["heisenberg:8080", "einstein:8080"], [1, 2])


def test_a_record_is_what_was_said() -> None:
    assert TWO.hosts == ("heisenberg:8080", "einstein:8080")
    assert TWO.weights == (1.0, 2.0)
    assert routing_record("a", ["b:1", "[::1]:2"]).weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("hosts", "weights", "complaint"),
    [
        (["a:1"], [1, 2], "1 hosts and 2 weights"),
        ([], None, "needs 1 to"),
        (["a"], None, "HOST:PORT"),
        (["a:0"], None, "HOST:PORT"),
        (["a:65536"], None, "HOST:PORT"),
        (["http://a:1"], None, "HOST:PORT"),
        (["a:1/x"], None, "HOST:PORT"),
        (["a b:1"], None, "HOST:PORT"),
        (["a\r\n:1"], None, "HOST:PORT"),
        (["a:1", "a:1"], None, "twice"),
        (["a:1"], [float("nan")], "no weight"),
        (["a:1"], [-1], "no weight"),
        (["a:1", "b:1"], [0, 0], "over 0"),
    ],
)
def test_what_makes_no_sense_is_refused_and_why(
    hosts: list[str], weights: list[float] | None, complaint: str
) -> None:
    with pytest.raises(RouteInvalid, match=complaint):
        routing_record("a", hosts, weights)


def test_a_service_must_be_a_name() -> None:
    with pytest.raises(InvalidName):
        routing_record("no/name", ["a:1"])


@given(st.text(max_size=40), st.lists(st.floats(), max_size=3))
def test_a_record_is_made_or_refused_whatever_is_said(host: str, weights: list[float]) -> None:
    try:
        record = routing_record("a", [host], weights or None)
    except RouteInvalid:
        return
    table = RoutingTable()
    table.put(record, 0.0)
    (target,) = table.instances(ServiceName("a"), 1)
    assert target.record.address == host


def test_the_table_tells_of_each_change_and_forgets_them_when_told() -> None:
    told: list[Update] = []
    table = RoutingTable(told.append)
    table.put(TWO, 1.0)
    assert table.unset(NET, 2.0)
    assert not table.unset(NET, 3.0)
    table.put(TWO, 4.0)
    assert table.clear(5.0) == 1
    assert told == [
        Update(1.0, NET, TWO),
        Update(2.0, NET, None),
        Update(4.0, NET, TWO),
        Update(5.0, NET, None),
    ]
    assert list(table.updates()) == told
    assert table.flush() == 4
    assert table.updates() == ()


def test_the_table_is_bounded() -> None:
    table = RoutingTable()
    for number in range(MAX_RECORDS):
        table.put(routing_record(f"s{number}", ["a:1"]), 0.0)
    with pytest.raises(RouteInvalid, match="unset one"):
        table.put(TWO, 0.0)
    table.put(routing_record("s1", ["b:1"]), 0.0)
    assert len(table.updates()) == MAX_UPDATES
    assert len(table.records()) == MAX_RECORDS


def test_targets_are_the_same_instances_until_they_change() -> None:
    table = RoutingTable()
    table.put(TWO, 0.0)
    first = table.instances(NET, 1)
    assert table.instances(NET, 1) is first
    assert table.instances(NET, 2) is not first
    assert {i.owner for i in first} == {ROUTED}
    assert [i.record.id for i in first] == ["heisenberg-8080", "einstein-8080"]


def test_requests_are_shared_as_the_weights_say_fractions_too_and_change_live() -> None:
    table = RoutingTable()
    upstreams = Upstreams(empty_view(Identity.from_seed(b"p" * 32), "here"), Random(1), table)

    def shares(picks: int) -> Counter[str]:
        found = (upstreams.group(NET, 1, RttLimits(0.001, 0.001)).pick(0.0) for _ in range(picks))
        return Counter(u.instance.record.address for u in found if u is not None)

    table.put(routing_record("squeezenet", ["a:1", "b:1"], [0.5, 2.0]), 0.0)
    assert shares(1000) == {"a:1": 200, "b:1": 800}
    table.put(routing_record("squeezenet", ["a:1", "c:1"], [1.9, 1.0]), 0.0)
    changed = shares(290)
    assert changed["a:1"] == pytest.approx(190, abs=2)
    assert changed["c:1"] == pytest.approx(100, abs=2)
    table.unset(NET, 0.0)
    assert shares(10) == {}


def test_what_is_in_the_table_is_remembered_when_the_view_is_looked_through() -> None:
    table = RoutingTable()
    upstreams = Upstreams(empty_view(Identity.from_seed(b"p" * 32), "here"), Random(1), table)
    table.put(TWO, 0.0)
    group = upstreams.group(NET, 1, RttLimits())
    upstreams.prune()
    assert upstreams.group(NET, 1, RttLimits()) is group
    table.clear(0.0)
    upstreams.prune()
    assert upstreams._upstreams == {}
