"""The bus: its road, what a ride says, and a short ride on the host lab."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos.experiment.plot import plot
from demos.experiment.ride import (
    Distance,
    Reading,
    Ride,
    by_second,
    over_limit_share,
    reasons,
    summary,
    switches,
    write_csv,
)
from demos.experiment.road import Road

ROOT = Path(__file__).resolve().parents[2]
ROAD = Road(("one", "two", "three"), pass_s=90, apart_s=50)


def test_the_clock_begins_at_the_soft_limit_of_the_first_stop_and_ends_at_that_of_the_last() -> (
    None
):
    assert ROAD.rtt_s("one", 0) == pytest.approx(0.005)
    assert ROAD.rtt_s("three", ROAD.length_s) == pytest.approx(0.005)
    assert ROAD.length_s == pytest.approx(140)


def test_rtt_is_shortest_at_a_stop_and_there_is_no_link_out_of_reach() -> None:
    assert ROAD.nearest_at("two") == pytest.approx(70)
    assert ROAD.rtt_s("two", 70) == pytest.approx(0.001)
    assert ROAD.rtt_s("two", 70 + 45) == pytest.approx(0.010)
    assert ROAD.rtt_s("two", 70 + 45.1) is None


def test_a_stretched_road_has_longer_rtts_and_limits_and_the_same_times() -> None:
    stretched = Road(ROAD.stops, 90, 50, stretch=10)
    assert stretched.rtt_s("one", 7) == pytest.approx(10 * (ROAD.rtt_s("one", 7) or 0))
    assert (stretched.soft_s, stretched.hard_s) == pytest.approx((0.05, 0.1))
    assert stretched.within_limit("two") == ROAD.within_limit("two")


@given(st.floats(1, 1000), st.floats(0.01, 0.99), st.integers(1, 6), st.floats(0, 1))
def test_all_along_the_ride_some_stop_is_in_reach(
    pass_s: float, closeness: float, stops: int, at: float
) -> None:
    road = Road(tuple(map(str, range(stops))), pass_s, closeness * pass_s)
    reached = [rtt for rtt in road.rtts_s(at * road.length_s).values() if rtt is not None]
    assert reached
    assert all(0.001 <= rtt <= 0.0101 for rtt in reached)


@pytest.mark.parametrize(("stops", "apart_s"), [((), 50), (("one",), 90), (("one",), 0)])
def test_a_road_with_gaps_is_none(stops: tuple[str, ...], apart_s: float) -> None:
    with pytest.raises(ValueError, match="in reach"):
        Road(stops, 90, apart_s)


def ride(*readings: tuple[float, str]) -> Ride:
    """Return a ride on which readings were answered by these; by nobody where it is empty."""
    made = Ride(ROAD)
    for at_s, stop in readings:
        failure = "" if stop else "504 too late"
        made.readings.append(Reading(at_s, "bus-1", 0.02, stop, "cloud", failure))
    made.distances += [Distance(0.0, "one", 0.005, 0.0051), Distance(0.0, "two", None, None)]
    return made


def test_a_switch_is_timed_from_when_the_new_stop_was_the_better_one() -> None:
    seen = ride((10, "one"), (46, "two"), (45, "one"), (47, "one"), (99, "two"), (102, "three"))
    first, second = switches(seen)
    assert (first.old, first.new, first.at_s) == ("one", "two", 46)
    assert (second.old, second.new, second.at_s) == ("two", "three", 102)
    assert (first.wanted_s, second.wanted_s) == pytest.approx((50, 100))


def test_a_failed_reading_is_no_switch_and_is_counted_in_its_second() -> None:
    seen = ride((0.5, "one"), (1.2, ""), (1.9, ""), (139.9, ""))
    assert switches(seen) == []
    counts = by_second([r for r in seen.readings if r.failure], ROAD.length_s)
    assert (counts[0], counts[1], counts[139], sum(counts)) == (0, 2, 1, 3)


def test_reasons_of_failures_are_counted_whatever_instances_and_times_they_name() -> None:
    said = [f"502 aggregator (instance {name}) failed" for name in ("117276d1252c", "a07276d1252c")]
    failed = [Reading(1, "bus-1", 0.02, "", "", why) for why in (*said, "timed out", said[0])]
    assert reasons(failed) == [
        ("502 aggregator (instance …) failed", 3),
        ("timed out", 1),
    ]
    away = [failed[0]._replace(failure=f"503 RTT {rtt} ms is over") for rtt in ("10.1", "12")]
    assert reasons(away) == [("503 RTT … ms is over", 2)]


def test_answers_from_over_the_soft_limit_are_told_of_those_that_came() -> None:
    assert over_limit_share(ride((10, "one"), (45, "one"), (46, ""))) == 0.5
    assert over_limit_share(ride()) == 0


def test_what_was_seen_is_kept_as_files(tmp_path: Path) -> None:
    seen = ride((1, ""), (0.5, "one"), (60, "two"))
    write_csv(seen, tmp_path)
    with (tmp_path / "readings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["at_s"], row["aggregator"], row["latency_ms"]) for row in rows] == [
        ("0.500", "one", "20.000"),
        ("1.000", "", "20.000"),
        ("60.000", "two", "20.000"),
    ]
    assert (tmp_path / "distances.csv").read_text().splitlines()[1:] == [
        "0.000,one,5.000,5.100",
        "0.000,two,,",
    ]
    plot(seen, tmp_path / "ride.svg")
    assert "one → two" in (tmp_path / "ride.svg").read_text()
    assert "504 too late" in "\n".join(summary(seen))


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_ride_is_served_by_both_stops_and_drawn(tmp_path: Path) -> None:
    """With RTTs thirty times as long, so that a busy machine's own delays are none of it."""
    flags = ["--stops", "2", "--pass-s", "40", "--apart-s", "22", "--sensors", "4"]
    flags += ["--stretch", "30", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "demos/experiment/demo.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "stop1 was over the soft limit from" in done.stdout
    with (tmp_path / "readings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["aggregator"] for row in rows if not row["failure"]} == {"stop1", "stop2"}
    assert {row["predictor"] for row in rows if not row["failure"]} == {"cloud"}
    assert (tmp_path / "ride.svg").read_text().count("<path") > 10
