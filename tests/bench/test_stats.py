from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import quantile, spread, table

samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def test_the_p99_of_fifty_samples_is_the_largest() -> None:
    assert quantile(list(range(1, 51)), 0.99) == 50


def test_the_p99_of_two_hundred_samples_leaves_two_above() -> None:
    assert quantile(list(range(1, 201)), 0.99) == 198


def test_the_median_of_an_even_number_is_the_lower_middle() -> None:
    assert quantile([4, 1, 3, 2], 0.5) == 2


@given(samples, st.floats(0.01, 1))
def test_a_quantile_is_a_sample_that_enough_others_do_not_exceed(
    values: list[float], p: float
) -> None:
    found = quantile(values, p)
    assert found in values
    assert sum(v <= found for v in values) >= p * len(values) - 1e-6


@pytest.mark.parametrize("p", [0, -1, 1.1])
def test_a_quantile_outside_of_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        quantile([1.0], p)


def test_nothing_has_no_quantile_and_no_spread() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        spread([])


@given(samples)
def test_a_spread_holds_every_value(values: list[float]) -> None:
    found = spread(values)
    assert all(found.least <= v <= found.most for v in values)
    assert found.median == median(values)


def test_a_spread_is_shown_with_its_range() -> None:
    assert spread([1.0, 2.0, 1234.56]).text(1) == "2.0 (1.0–1,234.6)"


def test_a_table_is_markdown_with_aligned_columns() -> None:
    assert table(["hop", "ms"], [["direct", "1"], ["myxo", "12"]]).splitlines() == [
        "| hop    | ms |",
        "| ------ | -: |",
        "| direct |  1 |",
        "| myxo   | 12 |",
    ]
