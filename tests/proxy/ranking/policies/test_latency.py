import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ranking.policies.latency import ALPHA, FADE_S, KNOWN_AFTER, OUTLIER, Latency

samples = st.floats(0, 100)


def latency(*taken_s: float) -> Latency:
    """Of a backend that was asked one request after the other, at last at 0."""
    made, now = Latency(), -sum(taken_s)
    for sample_s in taken_s:
        now += sample_s
        made.observe(sample_s, now)
    return made


def test_it_is_the_quickest_of_the_first_samples_then_smoothed() -> None:
    assert latency(0.3, 0.2, 0.1, 0.2).smoothed_s == pytest.approx(0.1)
    assert latency(*[0.1] * 8, 0.2).smoothed_s == pytest.approx(0.1 + ALPHA * 0.1)


def test_a_slow_first_answer_is_forgotten() -> None:
    assert latency(3.0, 0.1).smoothed_s == pytest.approx(0.1)


def test_one_slow_answer_moves_it_little_and_four_in_a_row_at_once() -> None:
    assert latency(*[0.1] * 8, 1.0).smoothed_s == pytest.approx(0.1 + ALPHA * 0.1)
    assert latency(*[0.1] * 8, *[1.0, 1.2, 1.1] * 2).smoothed_s >= 1.0


@given(st.lists(samples, min_size=1))
def test_it_is_never_outside_of_what_was_seen(taken_s: list[float]) -> None:
    smoothed_s = latency(*taken_s).smoothed_s
    assert min(taken_s) - 1e-6 <= smoothed_s <= max(taken_s) + 1e-6


@given(st.lists(samples, min_size=1), samples, st.floats(0, 1000))
def test_what_is_expected_fades_to_what_is_usual(
    taken_s: list[float], usual_s: float, age_s: float
) -> None:
    known = latency(*taken_s)
    expected_s = known.expected_s(age_s, usual_s)
    low, high = sorted([known.smoothed_s, usual_s])
    assert low - 1e-6 <= expected_s <= high + 1e-6
    assert known.expected_s(50 * FADE_S[1], usual_s) == pytest.approx(usual_s, abs=1e-6)


def test_an_untried_one_is_taken_to_be_as_usual_and_let_in_slowly() -> None:
    untried = Latency()
    assert untried.expected_s(5.0, 0.3) == pytest.approx(0.3)
    assert untried.lets_in(0)
    assert not untried.lets_in(1)
    assert latency(0.1).lets_in(1)
    assert not latency(0.1).lets_in(2)
    assert latency(*[0.1] * KNOWN_AFTER).lets_in(1000)


def test_answers_that_were_waited_for_together_are_one_sample() -> None:
    made = latency(*[0.01] * 8)
    for number in range(10):  # all were sent at 0.001, and held up by the same pause
        made.observe(0.1 + number / 1000, 0.101 + number / 1000)
    assert made.smoothed_s == pytest.approx(0.01 * (1 + ALPHA * (OUTLIER - 1)))


def test_what_stays_slow_is_forgotten_more_and_more_slowly_and_else_as_at_first() -> None:
    made = latency(*[1.0] * 6)
    waits: list[float] = []
    now = 0.0
    for _ in range(6):
        began = now
        while made.expected_s(now, 0.1) > 0.4:
            now += 0.01
        waits.append(round(now - began, 2))
        now += 1.0
        made.observe(1.0, now)
    assert waits[0] == pytest.approx(1.1 * FADE_S[0], rel=0.1)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(1.1 * FADE_S[1], rel=0.1)
    now += 20.0
    made.observe(0.1, now)
    assert made.smoothed_s < 0.4
