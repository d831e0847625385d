import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.experiments import node_counters
from bench.lab.experiments.telemetry import Meter, Reading, pressure, rates

SOME = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 total=0\n"


def test_gauges_are_told_as_they_are_and_counters_as_what_grew_in_a_second() -> None:
    readings = iter(
        [
            Reading({("load_1", ""): 0.5}, {("sent", "eth0"): 100}),
            Reading({("load_1", ""): 0.7}, {("sent", "eth0"): 300, ("sent", "eth1"): 5}),
        ]
    )
    meter = Meter("h1", lambda: next(readings))
    assert meter.sample(10.0) == [(10.0, "load_1", "", "h1", 0.5)]
    assert meter.sample(14.0) == [
        (14.0, "load_1", "", "h1", 0.7),
        (14.0, "sent", "eth0", "h1", 50.0),
    ]


def test_a_counter_that_began_anew_says_nothing() -> None:
    assert rates({("sent", ""): 100}, {("sent", ""): 7}, 1.0) == {}


@given(st.floats(-1e9, 0))
def test_a_clock_that_went_back_makes_no_rate(seconds: float) -> None:
    assert rates({("sent", ""): 1}, {("sent", ""): 2}, seconds) == {}


def test_pressure_grows_by_the_percent_of_a_second_in_which_tasks_waited() -> None:
    before, after = (pressure(SOME.format(total)) for total in (1_000_000, 1_250_000))
    assert after["some"] - before["some"] == pytest.approx(25)
    assert after["full"] == 0


def test_this_machine_is_read() -> None:
    meter = Meter("here", node_counters.read)
    first = {row.metric for row in meter.sample(1.0)}
    assert {"memory_percent", "load_1", "processes", "disk_used_percent"} <= first
    sum(range(1_000_000))  # so that there is something to measure
    rows = {(row.metric, row.subsystem): row.value for row in meter.sample(1.5)}
    assert rows["cpu_percent", ""] > 0
    assert {"cpu0", ""} <= {subsystem for metric, subsystem in rows if metric == "cpu_percent"}
    assert any(metric == "net_sent_bytes_per_s" for metric, _ in rows)


def test_facts_say_what_the_machine_is() -> None:
    facts = {fact.key: fact.value for fact in node_counters.facts("here")}
    assert int(facts["cpus"]) >= 1
    assert int(facts["memory_bytes"]) > 2**20
