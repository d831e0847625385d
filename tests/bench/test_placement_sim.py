from random import Random

import pytest

from bench.placement_sim import NEWS_S, SLOTS, Machines, Network, Size, placed
from bench.stats import quantile
from overlay.view import Distance

SIZE = Size(machines=30, callers=10, samples=20, requests=60)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(SIZE, Random(3))


def test_callers_that_know_the_truth_get_the_nearest_of_empty_machines(network: Network) -> None:
    def true(caller: int, machine: int) -> Distance:
        return Distance(network.rtt_s(caller, machine), 0.0, measured=True)

    assert set(placed(network, true, load=False, rng=Random(1)).ratios) == {1.0}


def test_no_machine_is_nearer_than_the_best_that_had_room(network: Network) -> None:
    found = placed(network, network.measured, load=True, rng=Random(1))
    assert len(found.ratios) + found.nowhere == SIZE.requests
    assert min(found.ratios) >= 1.0


def test_callers_that_only_guess_are_farther_off(network: Network) -> None:
    guessed, measured = (
        placed(network, knows, load=False, rng=Random(1)).ratios
        for knows in (network.estimated, network.measured)
    )
    assert quantile(guessed, 0.9) > quantile(measured, 0.9)


def test_what_is_measured_is_measured_once(network: Network) -> None:
    assert network.measured(1, 2) is network.measured(1, 2)


def test_a_full_machine_takes_nothing_until_one_ends_and_others_hear_of_it_late() -> None:
    machines = Machines(1)
    assert all(machines.take(0, now=0.0, ends=10.0) for _ in range(SLOTS))
    assert not machines.take(0, now=1.0, ends=11.0)
    assert machines.heard == [SLOTS]
    machines.advance(NEWS_S)
    assert machines.heard == [0]
    machines.advance(10.0)
    assert machines.free == [SLOTS]
    assert machines.heard == [0]
    machines.advance(10.0 + NEWS_S)
    assert machines.heard == [SLOTS]
    assert machines.take(0, now=11.0, ends=12.0)


def test_one_seed_is_one_course(network: Network) -> None:
    once, again = (placed(network, network.measured, load=True, rng=Random(5)) for _ in range(2))
    assert once == again
