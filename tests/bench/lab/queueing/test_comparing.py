import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.lab.errors import BadInput
from bench.lab.queueing.comparing import Row, Trace, busiest, compared
from bench.lab.queueing.figures import NONE
from bench.lab.queueing.models import Model
from bench.lab.queueing.plotting import plot
from bench.lab.queueing.replay import Serving, figures, served, service_of, together
from bench.lab.queueing.showing import comparison_json, comparison_text
from bench.lab.traces.choosing import Chooser
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from bench.lab.traces.rows import mean_gap
from bench.lab.traces.splitting import Share

LOAD = 0.8
TRACES = {seed: list(generate(Parameters(samples=3000), seed)) for seed in range(1, 6)}
POLICIES = ["round_robin", "random", "least_request"]


def serving(trace: Trace, workers: int, seed: int) -> Serving:
    return Serving(LOAD * workers * mean_gap(trace), seed=seed)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(compared(TRACES, [1, 3], POLICIES, serving))


def by_name(rows: list[Row], workers: int) -> dict[str, Row]:
    return {row.policy: row for row in rows if row.workers == workers}


def test_at_one_worker_all_policies_do_the_same(rows: list[Row]) -> None:
    first, *others = by_name(rows, 1).values()
    assert first.over_first is None
    for other in others:
        assert other.delay == first.delay
        assert other.over_first is not None
        assert (other.over_first.mean, other.over_first.half) == (0, 0)


def test_at_three_workers_two_choices_wait_less_and_chance_more_than_turns(
    rows: list[Row],
) -> None:
    found = by_name(rows, 3)
    turns, chance, choices = (found[policy] for policy in POLICIES)
    assert choices.over_first is not None
    assert chance.over_first is not None
    assert choices.over_first.mean + choices.over_first.half < 0
    assert chance.over_first.mean - chance.over_first.half > 0
    assert choices.delay.mean < turns.delay.mean < chance.delay.mean
    assert turns.busiest.mean == 1
    assert chance.busiest.mean > 1.01


def test_the_difference_within_runs_is_known_better_than_the_delays(rows: list[Row]) -> None:
    chance = by_name(rows, 3)["random"]
    assert chance.over_first is not None
    assert chance.over_first.half < chance.delay.half


def test_a_trace_of_poisson_arrivals_at_one_worker_is_theorys_queue() -> None:
    trace = list(generate(Parameters(samples=100_000), 1))
    found = together(served(trace, Chooser("random", [1.0], 1), Serving(0.5)), None)
    expected = Model(1.0, 0.5).expected()
    assert expected is not None
    assert found.average_delay == pytest.approx(expected.delay, rel=0.1)
    assert found.p95 == pytest.approx(expected.p95, rel=0.1)


def test_all_workers_together_have_everybodys_delays() -> None:
    shares = served(TRACES[1], Chooser("random", [1.0] * 3, 1), Serving(2.0))
    each, whole = [figures(share, None) for share in shares], together(shares, None)
    assert whole.customers == len(TRACES[1])
    weighed = sum(one.average_delay * one.customers for one in each) / whole.customers
    assert whole.average_delay == pytest.approx(weighed)
    assert whole.end == max(one.end for one in each)
    assert whole.average_number == pytest.approx(sum(one.average_number for one in each))


def test_as_many_are_served_as_was_asked_for() -> None:
    shares = served(TRACES[1], Chooser("round_robin", [1.0] * 3, 1), Serving(2.0, customers=10))
    assert [figures(share, 10).customers for share in shares] == [10, 10, 10]
    assert together(shares, 10).customers == 30


def test_workers_without_requests_are_no_trouble() -> None:
    assert together([Share(), Share()], None) == NONE
    some = served(TRACES[1][:1], Chooser("round_robin", [1.0] * 3, 1), Serving(2.0))
    assert together(some, None).customers == 1
    assert busiest(some) == 3


def test_a_serving_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match=r"\(ST\) is 0"):
        Serving(0.0)
    with pytest.raises(BadInput, match="DELAY is 0"):
        Serving(1.0, customers=0)
    with pytest.raises(BadInput, match="'gamma'; there is exponential"):
        service_of("gamma")


def test_it_reads_as_a_table_and_as_json(rows: list[Row]) -> None:
    text = comparison_text(rows)
    assert len(text.splitlines()) == 2 + 6
    assert "±" in text
    (single,) = compared({1: TRACES[1]}, [1], ["random"], serving)
    assert "±" not in comparison_text([single])
    assert comparison_json([single])[0]["delay"]["half"] is None
    assert comparison_json(rows)[1]["over_first"] == {"mean": 0.0, "half": 0.0}


def test_it_is_drawn_the_same_each_time(rows: list[Row], tmp_path: Path) -> None:
    once, again = tmp_path / "once.svg", tmp_path / "again.svg"
    plot(rows, once)
    plot(rows, again)
    assert once.read_bytes() == again.read_bytes()
    assert ET.parse(once).getroot().tag.endswith("svg")  # noqa: S314  (our own file)
    assert all(policy in once.read_text() for policy in ("workers",))
    with pytest.raises(BadInput, match="cannot be drawn"):
        plot(rows, tmp_path / "it.nothing")
