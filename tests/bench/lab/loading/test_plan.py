import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.plan import make_plan, read_plan
from bench.lab.loading.target import target_of

URL = "http://example.org/"


def times(**said: Any) -> list[float]:
    return list(make_plan({"target": URL} | said).times(Random(1)))


def test_a_profile_says_when_requests_are_due() -> None:
    assert len(times(profile="constant:100", duration="5s")) == 500
    assert len(times(profile="ticks:1,2,3", interval="2s")) == 12
    assert len(times(profile="constant:1000", arrival="expovariate", duration=5)) == pytest.approx(
        5000, rel=0.1
    )


def test_without_a_profile_arrivals_are_in_seconds() -> None:
    assert times(arrival="constant:0.5", count=3) == [0, 0.5, 1.0]
    assert times(arrival="0.5", duration="1.2s") == [0, 0.5, 1.0]


def test_requests_are_sent_in_turn_again_and_again(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\xff\xd8")
    plan = make_plan(
        {
            "target": URL,
            "requests": [{"path": "/a"}, {"method": "POST", "path": "/b", "body_file": str(body)}],
            "profile": "constant:1",
            "duration": 1,
        }
    )
    messages = plan.messages(target_of(URL), explained=False)
    first, second, third = islice(messages, 3)
    assert first.data.startswith(b"GET /a ")
    assert second.data.startswith(b"POST /b ")
    assert second.data.endswith(b"\xff\xd8")
    assert third == first


def test_flags_change_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "load.yml"
    file.write_text(f"target: {URL}\nprofile: constant:5\nduration: 2s\n")
    assert len(list(read_plan(file, {}).times(Random(0)))) == 10
    assert len(list(read_plan(file, {"duration": "4s"}).times(Random(0)))) == 20


def test_a_plan_is_the_same_after_json() -> None:
    plan = make_plan({"target": URL, "at_once": 3, "duration": "5s", "parameters": {"a": [1]}})
    assert make_plan(json.loads(plan.model_dump_json())) == plan


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({}, "no end"),
        ({"profile": "constant:5"}, "give the load a duration"),
        ({"profile": "constant:5", "duration": "x"}, "duration: .*no duration"),
        ({"profile": "constant:5", "count": 5}, "leave count out"),
        ({"at_once": 2, "arrival": "1", "count": 5}, "at_once"),
        ({"at_once": 0, "count": 5}, "at_once: "),
        ({"rate": 5}, "rate: Extra"),
        ({"requests": [{"at": 1.0}, {}]}, "all have it"),
        ({"requests": [{"at": 1.0}], "profile": "constant:5"}, "all have it"),
        ({"requests": [{"method": 5}], "count": 1, "at_once": 1}, r"requests\.0\.method"),
        ({"client": "x", "requests": [{}], "at_once": 1, "count": 1}, "not from both"),
        ({"count": 5}, "say when requests are due"),
    ],
)
def test_what_makes_no_load_is_refused_with_the_field(said: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_plan({"target": URL} | said).times(Random(0))


@pytest.mark.parametrize("text", ["[1]", "{", "a: [", "\x00"])
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    for suffix in (".json", ".yml"):
        file = tmp_path / f"load{suffix}"
        file.write_text(text)
        with pytest.raises(BadInput, match="the load file"):
            read_plan(file, {})
