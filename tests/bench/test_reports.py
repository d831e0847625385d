"""What benchmarks say of what they measured, also where there was less than planned."""

from typing import Any

import pytest

from bench import bus, distant, estimates, many
from bench.bus import Ride
from bench.client import Answer
from bench.distant import Found
from bench.many import Held
from bench.network import is_stocked


def test_a_cold_start_far_away_is_compared_with_two_round_trips_more() -> None:
    found = Found(rtt_s=0.1, bare=[0.1, 0.2, 0.3], cold=[0.8, 0.6, 0.1])
    assert found.ratio == pytest.approx(0.6 / 0.4)


def test_a_distant_request_that_no_start_answered_has_failed() -> None:
    found = Found(rtt_s=0.0, bare=[0.1], cold=[0.1])
    distant.take(found, Answer(200, 0.2, {"server-timing": "lookup;dur=1"}))
    distant.take(found, Answer(503, 0.2, text="no room"))
    distant.take(found, Answer(200, 0.2, {"server-timing": "start;dur=100"}))
    figures = distant.report([found, Found(0.1, bare=[0.2], cold=[0.4])]).figures
    assert (figures["starts"], figures["failed"], figures["success"]) == (3, 2, 0.6)
    assert figures["cold_ratio_100ms"] == figures["cold_ratio_far_max"] == pytest.approx(1.0)


def test_a_bus_that_was_never_switched_has_no_time_of_it() -> None:
    ride = Ride("stop1", latencies_s=[0.01, 0.02], failures=["x"])
    figures = bus.report([None, None], ride).figures
    assert (figures["switched"], figures["switches"], figures["switch_p50_s"]) == (0, 2, None)
    assert (figures["failed"], figures["requests"]) == (1, 3)


def test_the_last_starts_are_compared_with_the_first() -> None:
    empty, full = Held(pss=80.0, rss=100.0, cpu=0.0), Held(pss=82.0, rss=103.0, cpu=0.01)
    figures = many.report([0.1] * 10 + [0.2] * 10, empty, full).figures
    assert figures["last_ratio_first"] == pytest.approx(2.0)
    assert figures["kib_per_service"] == pytest.approx(2.0 / 20 * 1024)


def test_a_stock_is_full_when_it_has_what_is_wanted_or_can_have_none() -> None:
    def daemons(ready: int, problem: str = "") -> list[dict[str, Any]]:
        stock = {"ready": ready, "wanted": 2, "problem": problem}
        return [{"role": "proxy"}, {"role": "allocator", "sandboxes": stock}]

    assert not is_stocked(daemons(1))
    assert is_stocked(daemons(2))
    assert is_stocked(daemons(0, problem="no program"))
    assert is_stocked([{"role": "allocator", "sandboxes": {}}])


def test_the_error_of_an_estimate_is_relative_to_both_ways_of_the_link() -> None:
    assert estimates.error(0.11, delay_s=0.05) == pytest.approx(0.1)
    assert estimates.error(0.09, delay_s=0.05) == pytest.approx(0.1)
    figures = estimates.report({10.0: [0.5, 0.5], 60.0: [0.1, 0.2, 0.9]}, 3).figures
    assert figures["lab_coordinate_error_median"] == pytest.approx(0.2)
    assert figures["lab_coordinate_error_p90"] == pytest.approx(0.9)
