from hypothesis import given
from hypothesis import strategies as st

from myxo.mapping.intervals import Intervals

bounds = st.tuples(st.integers(0, 40), st.integers(0, 40))


def indices(ranges: list[range]) -> list[int]:
    return [index for one in ranges for index in one]


@given(st.lists(bounds, max_size=30), bounds)
def test_it_holds_what_a_set_holds(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    intervals, known = Intervals(), set[int]()
    for start, stop in added:
        new = indices(intervals.add(start, stop))
        assert new == [index for index in range(start, stop) if index not in known]
        known.update(new)
        assert len(intervals) == len(known)
    missing = indices(intervals.missing(*asked))
    assert missing == [index for index in range(*asked) if index not in known]


@given(st.permutations([(start, start + 3) for start in range(0, 30, 3)]))
def test_ranges_that_touch_become_one(added: list[tuple[int, int]]) -> None:
    intervals = Intervals()
    for start, stop in added:
        intervals.add(start, stop)
    assert repr(intervals) == "Intervals(0..30)"
