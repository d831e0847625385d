from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.membership import MemberState
from overlay.names import PeerId, ServiceName
from overlay.records import PeerRecord, Role, Version
from overlay.rtt import RttEstimate
from overlay.view import Distance, PeerView
from proxy.ranking.moving import (
    BREACH_S,
    GAP_S,
    MAX_SERVICES,
    RETRY_S,
    SUSPECT_S,
    Breaches,
    is_clearly_better,
    is_over,
)
from proxy.ranking.placement import Cost, Site

HELLO = ServiceName("hello")
SOFT_S = 0.005


def site(rtt_s: float | None, error_s: float = 0.0, *, local: bool = False) -> Site:
    record = PeerRecord(version=Version(epoch=1.0, counter=1), role=Role.ALLOCATOR, host="h")
    distance = None if rtt_s is None else Distance(rtt_s, error_s, measured=True)
    return Site(PeerView(PeerId("p"), record, MemberState.ALIVE, distance, local), Cost(0, 0))


def measured(rtt_s: float, error_s: float = 0.0) -> Distance:
    return Distance(rtt_s, error_s, measured=True)


def looks(breaches: Breaches, *times: float, suspect: bool = False) -> list[float]:
    return [t for t in times if breaches.met(HELLO, t, suspect=suspect)]


def test_a_breach_must_last_and_is_then_acted_on_once_in_a_while() -> None:
    times = [n / 10 for n in range(250)]
    found = looks(Breaches(), *times)
    assert found == pytest.approx([BREACH_S, BREACH_S + RETRY_S, BREACH_S + 2 * RETRY_S])


def test_one_good_answer_begins_the_breach_anew() -> None:
    breaches = Breaches()
    assert looks(breaches, 0.0, 0.9) == []
    breaches.ended(HELLO, 0.95)
    assert looks(breaches, 1.0, 1.9) == []
    assert looks(breaches, 2.1) == [2.1]
    breaches.ended(HELLO, 2.2)  # the pause holds on
    assert looks(breaches, 3.0, 5.0, 12.0) == []
    assert looks(breaches, 12.2) == [12.2]


def test_requests_far_apart_are_no_lasting_breach() -> None:
    assert looks(Breaches(), 0.0, GAP_S + 1, 2 * GAP_S + 3) == []


def test_a_suspect_is_given_less_time() -> None:
    assert looks(Breaches(), 0.0, 0.2, SUSPECT_S, suspect=True) == [SUSPECT_S]


def test_a_bounded_number_of_services_is_watched() -> None:
    breaches = Breaches()
    for number in range(MAX_SERVICES + 5):
        breaches.met(ServiceName(f"s{number}"), 0.0, suspect=False)
    assert len(breaches._breaches) == MAX_SERVICES


def test_better_is_within_the_limit_with_all_variation_and_nearer_by_more_than_noise() -> None:
    assert is_clearly_better(site(0.001, 0.0002), measured(0.01, 0.002), SOFT_S)
    assert not is_clearly_better(site(0.0049, 0.0002), measured(0.01, 0.002), SOFT_S)
    assert not is_clearly_better(site(0.004, 0.0008), measured(0.0055, 0.001), SOFT_S)
    assert is_clearly_better(site(0.001), None, SOFT_S)
    assert not is_clearly_better(site(None), measured(0.01), SOFT_S)
    assert is_clearly_better(site(None, local=True), measured(0.01), SOFT_S)


@given(st.integers(0, 2**32), st.floats(0.0045, 0.0055), st.floats(0.05, 0.4))
def test_a_noisy_link_at_the_limit_moves_nothing_to_one_that_is_as_noisy(
    seed: int, true_s: float, noise: float
) -> None:
    """Two links of the same length: whatever their samples say, neither is clearly better."""
    random = Random(seed)
    one = other = None
    for _ in range(200):
        samples = [true_s * random.uniform(1 - noise, 1 + noise) for _ in range(2)]
        one = RttEstimate.first(samples[0]) if one is None else one.updated(samples[0])
        other = RttEstimate.first(samples[1]) if other is None else other.updated(samples[1])
        current = measured(one.smoothed_rtt, one.rtt_variation)
        candidate = site(other.smoothed_rtt, other.rtt_variation)
        assert not is_clearly_better(candidate, current, SOFT_S)


def test_a_link_that_got_ten_times_longer_is_left_within_a_dozen_probes() -> None:
    near = site(0.001, 0.0001)
    estimate = RttEstimate.first(0.001)
    for _ in range(50):
        estimate = estimate.updated(0.001)
    for probes in range(1, 13):
        estimate = estimate.updated(0.01)
        current = measured(estimate.smoothed_rtt, estimate.rtt_variation)
        over = is_over(current, estimate.latest, SOFT_S)
        if over and is_clearly_better(near, current, SOFT_S):
            assert probes <= 6
            return
    pytest.fail("it was not left")


def test_a_single_spike_is_no_breach_once_the_next_sample_is_there() -> None:
    estimate = RttEstimate.first(0.001).updated(0.2)
    spiked = measured(estimate.smoothed_rtt, estimate.rtt_variation)
    assert is_over(spiked, estimate.latest, SOFT_S)
    estimate = estimate.updated(0.001)
    assert estimate.smoothed_rtt > SOFT_S
    assert not is_over(measured(estimate.smoothed_rtt), estimate.latest, SOFT_S)


def test_an_unknown_distance_is_over_and_an_estimate_alone_is_believed() -> None:
    assert is_over(None, None, SOFT_S)
    assert is_over(measured(0.006), None, SOFT_S)
    assert not is_over(measured(0.005), None, SOFT_S)
