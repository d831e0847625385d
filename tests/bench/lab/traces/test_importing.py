import io

import pytest

from bench.lab.errors import BadInput
from bench.lab.traces.importing import column_map, imported
from bench.lab.traces.rows import Request

LOG = "ts,verb,bytes\n1500,GET,10\n1000,PUT,20\n2500,HEAD,30\n"


def test_rows_are_sorted_and_begin_at_nothing() -> None:
    columns = column_map("arrival=ts,operation=verb,filesize=bytes")
    assert imported(io.StringIO(LOG), "f", columns, 0.001) == [
        Request(0.0, 1, "write", 0, 20),
        Request(0.5, 1, "read", 0, 10),
        Request(1.5, 1, "read", 0, 30),
    ]


def test_a_column_can_be_named_by_its_number() -> None:
    found = imported(io.StringIO(LOG), "f", column_map("arrival=1,filesize=3"))
    assert [request.filesize for request in found] == [20, 10, 30]


def test_dates_are_times() -> None:
    text = "at\n2024-05-01T10:00:00Z\n2024-05-01T12:00:01.5+02:00\n2024-05-01 10:00:03\n"
    found = imported(io.StringIO(text), "f", column_map("arrival=at"))
    assert [request.arrival for request in found] == [0, 1.5, 3]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("ts", "--columns has 'ts'; write arrival=ts"),
        ("arival=ts", "'arival'.*did you mean arrival"),
        ("filesize=bytes", "does not say which column is the arrival"),
    ],
)
def test_a_column_map_that_is_none_is_refused(columns: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        column_map(columns)


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("", "arrival=ts", "f is empty; its first line names its columns"),
        ("ts\n", "arrival=ts", "f has a header and no rows"),
        (LOG, "arrival=tss", "f has no column 'tss'; it has ts, verb, bytes; did you mean ts"),
        (LOG + "x,GET,1\n", "arrival=ts", "line 5 of f: arrival is 'x'; .* or a date"),
        (LOG + "1,GET\n", "arrival=ts", "line 5 of f has 2 columns, and the header 3"),
        (LOG + "9,GET,-1\n", "arrival=ts,filesize=bytes", "line 5 of f: filesize is '-1'"),
        ("ts\ninf\n", "arrival=ts", "line 2 of f: arrival is 'inf'"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(text: str, columns: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        imported(io.StringIO(text), "f", column_map(columns))
