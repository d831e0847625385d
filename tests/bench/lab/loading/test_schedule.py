from itertools import pairwise
from math import ceil
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.loading.arrivals import CONSTANT, parse_arrivals
from bench.lab.loading.profiles import Piece, Ticks, parse_profile
from bench.lab.loading.schedule import due_times, share, until

rates = st.lists(st.floats(0, 500), min_size=1, max_size=8)


def test_a_thousand_a_second_for_ten_seconds_are_ten_thousand() -> None:
    times = list(due_times(parse_profile("constant:1000"), duration_s=10))
    assert len(times) == 10_000
    assert times == pytest.approx([number / 1000 for number in range(10_000)], abs=1e-9)


@given(st.integers(1, 3000), st.floats(0.1, 20))
def test_a_constant_rate_has_as_many_as_it_sums_up_to(rate: int, duration_s: float) -> None:
    times = list(due_times(parse_profile(f"constant:{rate}"), duration_s=duration_s))
    assert len(times) == ceil(rate * duration_s - 1e-6)


@given(rates, st.floats(0.1, 3))
def test_ticks_have_as_many_as_they_sum_up_to(ticks: list[float], interval_s: float) -> None:
    times = list(due_times(Ticks(ticks, interval_s)))
    assert abs(len(times) - sum(ticks) * interval_s) <= 1
    assert times == sorted(times)
    assert all(0 <= at <= len(ticks) * interval_s for at in times)


@given(rates)
def test_over_straight_lines_the_area_up_to_each_request_is_its_number(ramps: list[float]) -> None:
    """Against a sum of many thin slices."""
    text = "stages:0," + ",".join(f"1s:{rate}" for rate in ramps)
    profile = parse_profile(text)
    times = list(due_times(profile))
    pieces = list(profile.pieces(Random(0)))
    for number, at in list(enumerate(times))[:: max(len(times) // 7, 1)]:
        assert _area(pieces, at) == pytest.approx(number, abs=1e-3)


def _area(pieces: list[Piece], end: float) -> float:
    total, begin = 0.0, 0.0
    for length, first, last in pieces:
        inside = min(max(end - begin, 0.0), length)
        total += inside * (first + (first + (last - first) * inside / length)) / 2
        begin += length
    return total


def test_exponential_gaps_make_a_poisson_process_of_that_rate() -> None:
    profile, arrivals = parse_profile("constant:200"), parse_arrivals("expovariate")
    times = list(due_times(profile, arrivals, 100.0, Random(1)))
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert fmean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert pstdev(gaps) == pytest.approx(1 / 200, rel=0.05)


def test_arrivals_of_any_parameters_come_at_the_profile_s_rate() -> None:
    profile = parse_profile("constant:100")
    for text in ("lognormvariate:3,1", "gammavariate:0.5,9", "uniform:5,6"):
        times = list(due_times(profile, parse_arrivals(text), 100.0, Random(2)))
        assert len(times) == pytest.approx(10_000, rel=0.06)


def test_the_same_seed_gives_the_same_times() -> None:
    profile, arrivals = parse_profile("walk:50,10,100"), parse_arrivals("expovariate")
    one, other, third = (
        list(due_times(profile, arrivals, 20.0, Random(seed))) for seed in (4, 4, 5)
    )
    assert one == other != third


@given(st.integers(1, 5), rates)
def test_shares_of_several_processes_are_the_whole(processes: int, ticks: list[float]) -> None:
    whole = list(due_times(Ticks(ticks)))
    shares = [list(share(due_times(Ticks(ticks)), n, processes)) for n in range(processes)]
    assert sorted(at for one in shares for at in one) == whole


def test_where_the_rate_is_nothing_nothing_is_due() -> None:
    times = list(due_times(parse_profile("ticks:0,3,0")))
    assert times == pytest.approx([1, 4 / 3, 5 / 3])


def test_a_profile_is_cut_where_the_load_ends() -> None:
    pieces = list(until(parse_profile("stages:0,10s:10,10s:0").pieces(Random(0)), 15))
    assert pieces == [Piece(10, 0, 10), Piece(5, 10, 5)]


def test_a_load_without_an_end_is_refused() -> None:
    with pytest.raises(BadInput, match="duration"):
        next(due_times(parse_profile("constant:1"), CONSTANT))
