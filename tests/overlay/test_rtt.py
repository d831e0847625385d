from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.rtt import SAMPLE_LIMIT_S, RttEstimate, probe_timeout, with_sample

samples = st.floats(0, SAMPLE_LIMIT_S)


def test_the_first_sample_is_the_estimate_and_half_of_it_the_variation() -> None:
    assert with_sample(None, 0.1) == RttEstimate(
        smoothed_rtt=0.1, rtt_variation=0.05, latest=0.1, ewma=0.1
    )


def test_a_further_sample_follows_rfc_6298_worked_by_hand() -> None:
    estimate = RttEstimate.first(0.1).updated(0.2)
    assert estimate.rtt_variation == pytest.approx(0.75 * 0.05 + 0.25 * 0.1)  # 0.0625
    assert estimate.smoothed_rtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.2)  # 0.1125
    assert estimate.latest == 0.2
    assert estimate.ewma == pytest.approx(0.9 * 0.1 + 0.1 * 0.2)


def test_the_variation_is_taken_from_the_estimate_before_the_sample() -> None:
    estimate = RttEstimate.first(0.1).updated(0.2).updated(0.2)
    assert estimate.rtt_variation == pytest.approx(0.75 * 0.0625 + 0.25 * (0.2 - 0.1125))


@given(st.lists(samples, min_size=1))
def test_the_estimate_stays_among_its_samples(given_samples: list[float]) -> None:
    estimate: RttEstimate | None = None
    for sample in given_samples:
        estimate = with_sample(estimate, sample)
    assert estimate is not None
    slack = 1e-9
    assert min(given_samples) - slack <= estimate.smoothed_rtt <= max(given_samples) + slack
    assert min(given_samples) - slack <= estimate.ewma <= max(given_samples) + slack
    assert 0 <= estimate.rtt_variation <= max(given_samples)
    assert estimate.latest == given_samples[-1]


@pytest.mark.parametrize("sample", [-0.001, SAMPLE_LIMIT_S + 0.001, inf, nan])
def test_what_cannot_be_a_distance_is_no_sample(sample: float) -> None:
    known = RttEstimate.first(0.1)
    assert with_sample(known, sample) is known
    assert with_sample(None, sample) is None


@given(samples, st.floats(0, 1), st.floats(1, 2))
def test_the_timeout_is_estimate_plus_four_variations_within_its_bounds(
    sample: float, floor: float, ceiling: float
) -> None:
    estimate = RttEstimate.first(sample)
    timeout = probe_timeout(estimate, floor, ceiling)
    assert floor <= timeout <= ceiling
    if floor <= 3 * sample <= ceiling:
        assert timeout == pytest.approx(3 * sample)


def test_an_unmeasured_peer_is_given_the_ceiling() -> None:
    assert probe_timeout(None, 0.25, 0.5) == 0.5
