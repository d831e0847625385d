import json
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lab.loading.tally import MOST_REASONS, OTHER, Latencies, Tally

latencies = st.lists(st.floats(1e-6, 3000), min_size=1, max_size=300)


@given(latencies, st.sampled_from([50.0, 95.0, 99.0]))
def test_a_quantile_is_that_of_a_sorted_list_to_a_thousandth(
    values: list[float], percent: float
) -> None:
    found = Latencies()
    for value in values:
        found.add(value)
    expected = sorted(values)[ceil(percent / 100 * len(values) - 1e-9) - 1]
    assert found.quantile(percent) == pytest.approx(expected, rel=2e-3, abs=2e-6)
    assert found.count == len(values)
    assert found.longest == pytest.approx(max(values), rel=2e-3, abs=2e-6)


@settings(max_examples=15)  # a histogram takes milliseconds to make
@given(latencies, latencies)
def test_what_two_processes_found_adds_up(ones: list[float], others: list[float]) -> None:
    one, other, whole = Tally(), Tally(), Tally()
    for tally, values in ((one, ones), (other, others)):
        for value in values:
            tally.asked += 1
            tally.sent += 1
            for each in (tally, whole):
                each.answer(200, 0.0, value / 2, value)
    merged = Tally()
    for tally in (one, other):
        merged.merge(Tally.of_json(json.loads(json.dumps(tally.as_json()))))
    assert merged.asked == len(ones) + len(others) == merged.answered
    assert merged.intended.figures() == whole.intended.figures()
    assert merged.service.figures() == whole.service.figures()
    assert merged.statuses == {200: merged.asked}


def test_what_was_not_answered_well_is_counted_by_why() -> None:
    tally = Tally()
    tally.answer(302, 0.0, 0.0, 1.0)
    tally.fail("reset")
    tally.time_out("late", 0.0, 1.0, 5.0)
    tally.give_up("refused")
    assert (tally.failed, tally.unsent, tally.answered) == (3, 1, 1)
    assert tally.reasons == {"reset": 1, "late": 1, "refused": 1}
    assert tally.intended.count == 2
    assert tally.service.longest == pytest.approx(4, rel=1e-3)


def test_reasons_are_bounded() -> None:
    tally = Tally()
    for number in range(3 * MOST_REASONS):
        tally.fail(f"reason {number}")
    assert len(tally.reasons) == MOST_REASONS + 1
    assert tally.reasons[OTHER] == 2 * MOST_REASONS


def test_the_rate_is_that_of_the_requests_between_the_first_and_the_last() -> None:
    tally = Tally(sent=11, first_sent=5.0, last_sent=7.0)
    tally.merge(Tally(sent=10, first_sent=4.0, last_sent=6.0))
    assert tally.rate == pytest.approx(20 / 3)


def test_nothing_was_found_where_nothing_was_sent() -> None:
    assert Tally().rate == 0
    assert set(Tally().intended.figures().values()) == {0}
