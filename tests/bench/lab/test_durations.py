import pytest

from bench.lab.durations import seconds
from bench.lab.errors import BadInput


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", 10),
        ("1.5m", 90),
        ("1h30m", 5400),
        ("200ms", 0.2),
        ("7", 7),
        (0.25, 0.25),
        (" 2S ", 2),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str | float, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1y", "1 s", "5m3", "1e3", -1, float("nan")])
def test_what_is_none_is_refused(text: str | float) -> None:
    with pytest.raises(BadInput, match="no duration"):
        seconds(text)
