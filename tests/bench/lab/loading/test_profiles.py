from itertools import islice
from math import inf
from pathlib import Path
from random import Random

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.profiles import Piece, Profile, parse_profile
from bench.lab.loading.recording import read_arrivals, read_profile


def pieces(profile: Profile, count: int, seed: int = 0) -> list[Piece]:
    return list(islice(profile.pieces(Random(seed)), count))


def test_a_constant_rate_goes_on() -> None:
    assert pieces(parse_profile("constant:50"), 2) == [Piece(inf, 50, 50)]


def test_a_sine_goes_from_the_middle_to_its_highest_and_to_nothing() -> None:
    period = pieces(parse_profile("sine:80,100s"), 256)
    assert sum(piece.length_s for piece in period) == pytest.approx(100)
    assert period[0].first == 40
    assert max(piece.last for piece in period) == 80
    assert min(piece.last for piece in period) == pytest.approx(0)
    requests = sum(piece.length_s * (piece.first + piece.last) / 2 for piece in period)
    assert requests == pytest.approx(4000)


def test_a_walk_stays_within_its_bounds_and_repeats_with_its_seed() -> None:
    walk = parse_profile("walk:10,5,20,2", 0.5)
    rates = [piece.first for piece in pieces(walk, 1000)]
    assert min(rates) == 2
    assert max(rates) == 20
    assert len(set(rates)) > 100
    assert pieces(walk, 50, 1) == pieces(walk, 50, 1) != pieces(walk, 50, 2)


def test_ticks_last_an_interval_each_and_end() -> None:
    ticks = parse_profile("ticks:1,2,3", 2.0)
    assert ticks.length_s == 6
    assert pieces(ticks, 9) == [Piece(2, 1, 1), Piece(2, 2, 2), Piece(2, 3, 3)]


def test_steps_end_at_the_highest() -> None:
    assert [piece.first for piece in pieces(parse_profile("step:10,20,40"), 4)] == [10, 30, 40, 40]
    assert [piece.first for piece in pieces(parse_profile("step:2,-1"), 4)] == [2, 1, 0, 0]


def test_stages_are_straight_lines() -> None:
    stages = parse_profile("stages:0,30s:100,1m:100")
    assert stages.length_s == 90
    assert pieces(stages, 3) == [Piece(30, 0, 100), Piece(60, 100, 100)]


def test_a_profile_in_a_file_has_a_time_and_a_rate_a_row(tmp_path: Path) -> None:
    file = tmp_path / "rates.csv"
    file.write_text("seconds,rate\n1,10\n3,20\n")
    profile = read_profile(f"csv:{file}")
    assert pieces(profile, 9) == [Piece(1, 0, 0), Piece(2, 10, 10), Piece(2, 20, 20)]
    assert profile.length_s == 5


def test_recorded_arrivals_have_a_time_a_line(tmp_path: Path) -> None:
    file = tmp_path / "gaps"
    file.write_text("0.5\n1.5\n")
    assert list(read_arrivals(f"prerecorded:{file}").times(Random(0))) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sinus:1,2", "there is no profile 'sinus'; there are constant, sine"),
        ("constant:x", "is not written as constant:RATE"),
        ("constant", "is not written as constant:RATE"),
        ("constant:-1", "no rate"),
        ("constant:inf", "no rate"),
        ("sine:10", "is not written as sine:MAX,PERIOD"),
        ("sine:10,0s", "above 0"),
        ("walk:30,1,20", "within its bounds"),
        ("stages:0", "is not written as stages"),
        ("stages:0,1m", "is not written as stages"),
        ("stages:0,1y:5", "no duration"),
        ("csv:/nowhere.csv", "cannot be read"),
    ],
)
def test_a_wrong_text_is_refused_with_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_profile(text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "at least one row"),
        ("0,1\n0,2\n", "row 2"),
        ("0,1\n1,x\n", "row 2 is not 2 number"),
        ("0,-1\n", "no rate"),
    ],
)
def test_a_wrong_file_is_refused_with_its_row(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "rates.csv"
    file.write_text(content)
    with pytest.raises(BadInput, match=says):
        read_profile(f"csv:{file}")
