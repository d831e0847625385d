from itertools import islice
from math import inf, isclose
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.loading.arrivals import (
    Arrivals,
    arrivals_of,
    parse_arrivals,
    recorded,
)

DRAWN = [
    "uniform:0,2",
    "triangular:0,3,1",
    "normalvariate:1,2",
    "lognormvariate:0,0.5",
    "expovariate:2",
    "vonmisesvariate:1,4",
    "vonmisesvariate:0,0",
    "gammavariate:2,0.5",
    "gauss:0.5,0.1",
    "betavariate:2,3",
    "paretovariate:4",
    "weibullvariate:1,1.5",
]


@pytest.mark.parametrize("text", DRAWN)
def test_the_mean_that_is_worked_out_is_that_of_what_is_drawn(text: str) -> None:
    arrivals = parse_arrivals(text)
    drawn = list(islice(arrivals.gaps(Random(7)), 50_000))
    assert min(drawn) >= 0
    assert isclose(fmean(drawn), arrivals.mean_s, rel_tol=0.03)


@pytest.mark.parametrize("text", [*DRAWN, "constant:0.5"])
def test_at_a_rate_the_mean_is_one(text: str) -> None:
    positions = list(islice(parse_arrivals(text).positions(Random(3)), 50_001))
    assert positions == sorted(positions)
    assert isclose(positions[-1] / 50_000, 1, rel_tol=0.03)


@pytest.mark.parametrize("text", DRAWN)
def test_the_same_seed_draws_the_same(text: str) -> None:
    arrivals = parse_arrivals(text)
    one, other = (list(islice(arrivals.times(Random(5)), 100)) for _ in range(2))
    assert one == other


@given(st.floats(1e-6, 1e3), st.integers(0, 10**7))
def test_constant_times_are_products_and_do_not_drift(gap: float, number: int) -> None:
    times = Arrivals("constant", (gap,)).times(Random(0))
    assert next(islice(times, number % 1000, None)) == (number % 1000) * gap


def test_a_number_and_a_tuple_mean_the_same_as_the_text() -> None:
    assert arrivals_of(0.5) == parse_arrivals("0.5") == parse_arrivals("constant:0.5")
    assert arrivals_of(("expovariate", 1.0)) == parse_arrivals("expovariate:1")
    assert arrivals_of(("expovariate",)) == parse_arrivals("expovariate")
    assert arrivals_of(("prerecorded", 1.0, 2.0)) == recorded([1.0, 2.0])


def test_recorded_times_come_once() -> None:
    assert list(recorded([1.0, 0.0, 2.5]).times(Random(0))) == [1.0, 1.0, 3.5]


def test_what_has_no_mean_cannot_be_brought_to_a_rate() -> None:
    heavy = parse_arrivals("paretovariate:1")
    assert heavy.mean_s == inf
    with pytest.raises(BadInput, match="no mean"):
        next(heavy.positions(Random(0)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("poisson:1", "there is no distribution 'poisson'; there are constant, uniform"),
        ("uniform:1", "its parameters are LOW,HIGH"),
        ("uniform:-1,1", "LOW"),
        ("uniform", "its parameters are LOW,HIGH"),
        ("gauss:1,-1", "SIGMA"),
        ("triangular:0,1,2", "MODE"),
        ("expovariate:0", "above 0"),
        ("expovariate:x", "not numbers"),
        ("expovariate:nan", "finite"),
        ("constant:-1", "above 0"),
        ("vonmisesvariate:0,-1", "KAPPA"),
        ("", "there is no distribution ''"),
    ],
)
def test_a_wrong_text_is_refused_with_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_arrivals(text)


@pytest.mark.parametrize("gaps", [[], [1.0, -0.1], [inf]])
def test_a_wrong_recording_is_refused(gaps: list[float]) -> None:
    with pytest.raises(BadInput):
        recorded(gaps)


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_extreme_parameters_draw_no_infinity(alpha: float, beta: float) -> None:
    for name in ("weibullvariate", "lognormvariate"):
        for gap in islice(arrivals_of((name, alpha, beta)).gaps(Random(1)), 20):
            assert 0 <= gap < inf
