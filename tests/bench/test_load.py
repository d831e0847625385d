import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import AnswerFailed
from bench.load import BATCH, highest, written


@given(st.integers(1, 100_000), st.integers(1, 50_000))
def test_the_highest_rate_that_holds_is_found(limit: int, first: int) -> None:
    assert highest(lambda rate: rate <= limit, first, 20) == limit


@given(st.integers(1, 100_000), st.integers(1, 50_000), st.integers(0, 3))
def test_what_is_found_was_seen_to_hold(limit: int, first: int, bisections: int) -> None:
    seen = set()

    def holds(rate: int) -> bool:
        if rate <= limit:
            seen.add(rate)
        return rate <= limit

    assert highest(holds, first, bisections) in seen


def test_where_nothing_holds_it_is_said() -> None:
    with pytest.raises(AnswerFailed, match="not even one"):
        highest(lambda _: False, 1000, 3)


async def test_what_is_written_is_what_the_first_look_and_the_next_one_find() -> None:
    done = await written(2 * BATCH)
    assert done.per_s.keys() == {"csv", "sqlite"}
    assert min(*done.per_s.values(), *done.looks_s) > 0
