import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.experiments.status import (
    ENDED,
    Change,
    IllegalChange,
    Status,
    after,
    sources,
    target,
)


def test_an_experiment_that_goes_well_is_queued_runs_and_finishes() -> None:
    assert after(after(Status.QUEUED, Change.START), Change.FINISH) is Status.FINISHED


@given(st.lists(st.sampled_from(Change), max_size=6))
def test_what_has_ended_never_changes_again(changes: list[Change]) -> None:
    status, ended = Status.QUEUED, None
    for change in changes:
        try:
            status = after(status, change)
        except IllegalChange:
            continue
        assert ended is None
        ended = status if status in ENDED else None


@pytest.mark.parametrize("change", Change)
def test_sources_and_target_are_what_the_table_says(change: Change) -> None:
    possible = []
    for status in Status:
        try:
            reached = after(status, change)
        except IllegalChange:
            continue
        assert reached is target(change)
        possible.append(status)
    assert sorted(sources(change)) == sorted(possible)
