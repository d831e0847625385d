import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.traces import rows
from bench.lab.traces.rows import OPERATIONS, Request
from bench.lab.traces.summary import summarised

REQUESTS = st.lists(
    st.builds(
        Request,
        st.integers(0, 10**9).map(lambda ticks: ticks / 10**6),
        st.integers(0, 1000),
        st.sampled_from(OPERATIONS),
        st.integers(0, 2**53),
        st.integers(0, 2**53),
    ),
    min_size=1,
).map(sorted)


@given(REQUESTS)
def test_what_is_written_is_read_again(trace: list[Request]) -> None:
    text = io.StringIO("".join(rows.lines(trace)))
    assert list(rows.parsed(text, "f")) == trace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f is empty"),
        ("1,1,read,1\n", "line 1 of f has 4 columns"),
        ("0,1,read,1,1\nsoon,1,read,1,1\n", "line 2 of f: arrival is 'soon'"),
        ("0,1,read,1.5,1\n", "line 1 of f: space is '1.5'; it must be a whole number"),
        ("0,1,eat,1,1\n", "line 1 of f: operation is 'eat'"),
        ("2,1,read,1,1\n1,1,read,1,1\n", "line 2 of f: it arrives at 1, before .* at 2"),
        ("nan,1,read,1,1\n", "arrival is 'nan'"),
    ],
)
def test_a_line_that_is_none_is_named(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        list(rows.parsed(io.StringIO(text), "f"))


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        rows.read(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="cannot be written"):
        rows.write([], tmp_path / "none" / "t.csv")


def test_the_moments_of_a_trace_are_its_own() -> None:
    trace = [
        Request(1, 1, "read", 1, 2),
        Request(2, 1, "read", 2, 4),
        Request(5, 1, "write", 5, 6),
    ]
    found = summarised(trace)
    assert (found.requests, found.span, found.rate) == (3, 4, 0.5)
    assert (found.gap_mean, found.gap_stdev, found.gap_variation) == (2, 1, 0.5)
    assert found.read_percent == pytest.approx(66.7, abs=0.1)
    assert (found.filesize_mean, found.places) == (4, 3)


def test_one_request_has_no_gaps() -> None:
    found = summarised([Request(3, 1, "read", 0, 1)])
    assert (found.span, found.rate, found.gap_mean, found.gap_variation) == (0, 0, 0, 0)
