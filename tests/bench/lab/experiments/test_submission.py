import json
from typing import Any

import pytest

from bench.lab.errors import BadInput
from bench.lab.experiments.submission import MAX_BODY_BYTES, read_submission, work_of

TICKS = {"duration": "4s", "interval": "2s", "workloads": [{"service": "s", "ticks": [1, 2]}]}


def test_galileos_item_is_read_with_everything_optional() -> None:
    submission = read_submission('{"instructions": "sleep 2"}')
    assert submission.task().instructions == "sleep 2"
    assert submission.described().exp_id is None


def test_id_name_and_creator_may_stand_beside_the_instructions() -> None:
    body = {"instructions": "sleep 2", "exp_id": "e-1", "name": "first", "creator": "ada"}
    described = read_submission(json.dumps(body)).described()
    assert (described.exp_id, described.name, described.creator) == ("e-1", "first", "ada")


def test_they_may_stand_where_the_rest_api_has_them() -> None:
    body = {"experiment": {"id": "e-2", "name": "second"}, "configuration": TICKS}
    described = read_submission(body).described()
    assert (described.exp_id, described.name) == ("e-2", "second")


def test_what_is_kept_means_the_same_when_it_is_read_again() -> None:
    task = read_submission({"configuration": TICKS}).task()
    assert work_of(task) == work_of(read_submission({"configuration": task.configuration}).task())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "must be an object"),
        ("[" * 100_000, "no JSON"),
        ("{}", "either instructions or a configuration"),
        ({"instructions": "sleep 1", "configuration": TICKS}, "either instructions or"),
        ({"instruction": "sleep 1"}, "instruction: there is no such field"),
        ({"instructions": "sleep 1", "exp_id": "a b"}, "exp_id: "),
        ({"instructions": "sleep 1", "exp_id": "../x"}, "exp_id: "),
        ({"instructions": "sleep 1", "name": ""}, "name: "),
        ({"instructions": "jump 1"}, "line 1: there is no command"),
        ({"instructions": "echo \0"}, "signs in it that are no text"),
        (
            {"instructions": "sleep 1", "metadata": {"k": ["\ud800"]}},
            "signs in it that are no text",
        ),
        ({"configuration": TICKS | {"interval": "x"}}, "configuration.interval: 'x' is no"),
        ("x" * (MAX_BODY_BYTES + 1), "are the most"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(body: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        read_submission(body)
