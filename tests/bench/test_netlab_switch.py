from ipaddress import IPv4Address
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.netlab import switch as switch_module
from bench.netlab.link import Link
from bench.netlab.switch import Switch

NAMES = ("a", "b", "c")


def address(name: str) -> str:
    return f"10.77.0.{NAMES.index(name) + 1}"


def packet(source: str, target: str, size: int = 100, version: int = 4) -> bytes:
    head = bytes([version << 4 | 5]) + bytes(11)
    head += IPv4Address(address(source)).packed + IPv4Address(address(target)).packed
    return head.ljust(size, b"\0")


@pytest.fixture
def switch() -> Switch:
    made = Switch(seed=1)
    for name in NAMES:
        made.add(name, [address(name)]).plugged = True
    return made


def due(switch: Switch, now: float) -> list[tuple[str, int]]:
    return [(port.name, len(data)) for port, data in switch.due(now)]


def test_a_packet_goes_to_the_host_it_is_for_when_the_link_says(switch: Switch) -> None:
    switch.set("a", "b", Link(delay_s=0.5))
    switch.arrive(switch.ports["a"], packet("a", "b", 100), 10.0)
    switch.arrive(switch.ports["a"], packet("a", "c", 200), 10.0)
    assert due(switch, 10.0) == [("c", 200)]
    assert switch.next_departure() == 10.5
    assert due(switch, 10.4999) == []
    assert due(switch, 10.5) == [("b", 100)]
    assert switch.next_departure() == inf


def test_the_way_back_is_a_link_of_its_own(switch: Switch) -> None:
    switch.set("a", "b", Link(delay_s=0.5))
    switch.arrive(switch.ports["b"], packet("b", "a"), 1.0)
    assert due(switch, 1.0) == [("a", 100)]


def test_packets_of_one_time_keep_the_order_in_which_they_came(switch: Switch) -> None:
    for size in (400, 100, 300, 200):
        switch.arrive(switch.ports["a"], packet("a", "b", size), 1.0)
    assert [size for _, size in due(switch, 1.0)] == [400, 100, 300, 200]


def test_a_cut_stops_what_is_under_way(switch: Switch) -> None:
    switch.set("a", "b", Link(delay_s=0.5))
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    switch.cut_path("a", "b", cut=True)
    assert due(switch, 1.0) == []
    assert switch.ports["a"].paths["b"].cut == 1


def test_a_healed_link_carries_again_and_with_what_it_was_set_to(switch: Switch) -> None:
    switch.set("a", "b", Link(delay_s=0.5))
    switch.cut_path("a", "b", cut=True)
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    switch.cut_path("a", "b", cut=False)
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    assert switch.next_departure() == 0.5
    assert due(switch, 0.5) == [("b", 100)]


def test_a_cut_is_one_way(switch: Switch) -> None:
    switch.cut_path("a", "b", cut=True)
    switch.arrive(switch.ports["b"], packet("b", "a"), 0.0)
    assert due(switch, 0.0) == [("a", 100)]


def test_a_pulled_cable_stops_both_ways_and_nobody_else(switch: Switch) -> None:
    switch.cut_port("a", cut=True)
    for source, target in (("a", "b"), ("b", "a"), ("b", "c")):
        switch.arrive(switch.ports[source], packet(source, target), 0.0)
    assert due(switch, 0.0) == [("c", 100)]


def test_a_link_that_was_cut_by_itself_stays_cut_when_the_cable_is_back(switch: Switch) -> None:
    switch.cut_path("a", "b", cut=True)
    switch.cut_port("a", cut=True)
    switch.cut_port("a", cut=False)
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    switch.arrive(switch.ports["a"], packet("a", "c"), 0.0)
    assert due(switch, 0.0) == [("c", 100)]


def test_a_host_that_is_off_gets_nothing(switch: Switch) -> None:
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    switch.ports["b"].plugged = False
    assert due(switch, 0.0) == []
    assert switch.ports["a"].paths["b"].cut == 1


@pytest.mark.parametrize(
    "stray",
    [
        b"",
        b"\x45",
        packet("a", "a"),
        packet("a", "b", version=6),
        packet("a", "b")[:16] + bytes([255] * 4),
        packet("a", "b")[:16] + bytes([224, 0, 0, 22]),
    ],
)
def test_what_is_for_nobody_here_is_counted_and_dropped(switch: Switch, stray: bytes) -> None:
    switch.arrive(switch.ports["a"], stray, 0.0)
    assert switch.ports["a"].unroutable == 1
    assert switch.under_way() == 0


def test_a_host_that_comes_back_with_another_address_is_found_there(switch: Switch) -> None:
    switch.add("b", ["10.77.0.9"])
    switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    assert switch.ports["a"].unroutable == 1


def test_more_than_the_router_can_hold_is_dropped(
    switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch_module, "MAX_HELD_BYTES", 250)
    switch.set("a", "b", Link(delay_s=1))
    for _ in range(4):
        switch.arrive(switch.ports["a"], packet("a", "b"), 0.0)
    assert switch.ports["a"].paths["b"].overflowed == 2
    assert len(due(switch, 1.0)) == 2
    switch.arrive(switch.ports["a"], packet("a", "b"), 1.0)
    assert switch.under_way() == 1


pairs = st.permutations(NAMES).map(lambda names: (names[0], names[1]))
operations = st.one_of(
    st.tuples(st.just("send"), pairs, st.integers(20, 1500)),
    st.tuples(st.just("cut"), pairs, st.booleans()),
    st.tuples(st.just("cable"), pairs, st.booleans()),
    st.tuples(st.just("link"), pairs, st.floats(0, 1)),
    st.tuples(st.just("wait"), pairs, st.floats(0, 2)),
)


@given(st.lists(operations, max_size=100))
def test_every_packet_is_counted_once(steps: list[tuple[str, tuple[str, str], float]]) -> None:
    switch, now, offered, received = Switch(seed=2), 0.0, 0, 0
    for name in NAMES:
        switch.add(name, [address(name)]).plugged = True
    for what, (source, target), value in steps:
        match what:
            case "send":
                offered += 1
                switch.arrive(switch.ports[source], packet(source, target, int(value)), now)
            case "cut":
                switch.cut_path(source, target, cut=bool(value))
            case "cable":
                switch.cut_port(source, cut=bool(value))
            case "link":
                link = Link(delay_s=value, loss=value / 2, bandwidth_bps=1e5, queue_s=value)
                switch.set(source, target, link)
            case _:
                now += value
        received += len(due(switch, now))
    paths = [path for port in switch.ports.values() for path in port.paths.values()]
    counted = sum(path.packets + path.lost + path.overflowed + path.cut for path in paths)
    assert counted + switch.under_way() == offered
    assert sum(path.packets for path in paths) == received
