"""What is compared, and in which order."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.plan import make_plan as make_load
from bench.lab.loading.tally import Tally
from bench.lab.reporting.plan import AS_DEFINED, make_plan, read_plan
from bench.lab.reporting.running import due, not_served
from overlay.balancing import Balancing
from overlay.spec import ServiceSpec

SPEC = ServiceSpec(process="exec true", policy=Balancing(name="random", weights={"a": 2.0}))

PLAN = """
services = ["hello"]
policies = ["rr", "as defined"]
duration = "90s"

[[scaling]]
name = "kept"
min_instances = 2

[[scaling]]
name = "reactive"
reactive = { metric = "busy", up = 70 }
"""


def plan(**said: Any) -> Any:
    return make_plan({"services": ["hello"]} | said)


def test_a_plan_is_read_from_a_file_and_flags_beat_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    found = read_plan(path, {"duration": "5s"})
    assert found.duration_s == 5
    names = [variant.name for variant in found.variants]
    assert names == ["round_robin, kept", "kept", "round_robin, reactive", "reactive"]


def test_each_variant_is_run_as_often_and_none_is_always_first() -> None:
    found = list(plan(policies=["rr", "random", "peak_ewma"], runs=3).rounds())
    assert Counter(variant.policy for _, variant in found) == Counter(
        {"round_robin": 3, "random": 3, "peak_ewma": 3}
    )
    assert len({found[first][1].policy for first in (0, 3, 6)}) == 3


def test_a_runs_schedule_is_the_same_for_every_variant_and_another_in_the_next_run() -> None:
    made = plan(duration="20s", profile="constant:20")
    counts = [due(make_load(made.load("hello", run))) for run in (0, 0, 1)]
    assert counts[0] == counts[1] != counts[2]


def test_a_policy_keeps_what_else_the_definition_says_of_balancing() -> None:
    spec = plan(policies=["wrr"]).variants[0].spec(SPEC)
    assert spec.policy == Balancing(name="weighted_round_robin", weights={"a": 2.0})


def test_as_defined_changes_nothing() -> None:
    variant = plan().variants[0]
    assert (variant.name, variant.spec(SPEC)) == (AS_DEFINED, SPEC)


def test_a_reactive_scaling_begins_with_its_least() -> None:
    scaling = [{"name": "reactive", "reactive": {"least": 2}}]
    spec = plan(scaling=scaling).variants[0].spec(SPEC)
    assert (spec.min_instances, spec.max_instances) == (2, 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"policies": ["fastest"]}, "'fastest' is no policy"),
        ({"policies": ["rr", "round_robin"]}, "'round_robin' is there twice"),
        ({"services": []}, "services"),
        ({"runs": 0}, "runs"),
        ({"duration": "0s"}, "no duration"),
        ({"scaling": [{"name": "a", "instances": 2}]}, "scaling.0.instances"),
        ({"speed": 1}, "speed"),
    ],
)
def test_a_plan_that_cannot_be_says_what_is_wrong(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        plan(**said)


def test_a_scaling_that_no_definition_can_have_is_refused() -> None:
    scaling = [{"name": "none at once", "concurrency": 0}]
    with pytest.raises(BadInput, match="concurrency"):
        plan(scaling=scaling).variants[0].spec(SPEC)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no\.toml cannot be read"):
        read_plan(tmp_path / "no.toml", {})


def test_what_was_not_served_is_said_with_its_most_frequent_reason() -> None:
    tally = Tally(asked=12, sent=11, unsent=1, answered=10, failed=4)
    tally.statuses.update({200: 7, 404: 3})
    tally.reasons.update({"no connection": 2})
    assert not_served(tally) == "5 of 12 requests were not served: status 404"
    assert not_served(Tally(asked=1, sent=1, answered=1)) == ""
