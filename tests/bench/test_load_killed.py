import pytest

from bench.lab.loading.traces import EVERY
from bench.load_killed import RATE, SINKS, killed


@pytest.mark.slow
@pytest.mark.parametrize("sink", SINKS)
def test_a_writer_that_is_killed_loses_the_last_traces_alone(sink: str) -> None:
    found = killed(sink, 2000)
    assert found.made >= 2000
    # What was not full yet, and what was being written; a machine that is busy is slower at that.
    assert 0 <= found.lost <= EVERY + RATE
