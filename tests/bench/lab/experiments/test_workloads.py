from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.experiments.checking import validated
from bench.lab.experiments.steps import CloseClients, SetRate, SpawnClients, WaitUntil
from bench.lab.experiments.workloads import Configuration, from_configuration

GOOD: dict[str, Any] = {
    "duration": "10s",
    "interval": "2s",
    "workloads": [{"service": "squeezenet", "ticks": [1, 5, 5, 2, 0]}],
}


def test_a_curve_is_spawned_paced_tick_by_tick_and_closed() -> None:
    assert from_configuration(validated(Configuration, GOOD)) == (
        SpawnClients(".*", "squeezenet", 3),
        WaitUntil(0),
        SetRate(".*", "squeezenet", 1, shared=True),
        WaitUntil(2),
        SetRate(".*", "squeezenet", 5, shared=True),
        WaitUntil(4),  # as before
        WaitUntil(6),
        SetRate(".*", "squeezenet", 2, shared=True),
        WaitUntil(8),
        SetRate(".*", "squeezenet", 0, shared=True),
        WaitUntil(10),
        SetRate(".*", "squeezenet", 0, shared=True),
        CloseClients(".*", "squeezenet"),
    )


def test_a_workload_says_which_clients_and_how_requests_arrive() -> None:
    workload = {
        "service": "alexnet",
        "ticks": [1] * 5,
        "clients_per_host": 2,
        "arrival_pattern": "exponential",
        "client": "images",
        "client_parameters": {"size": "small"},
    }
    configuration = GOOD | {"workloads": [workload], "seed": 7}
    first, *_ = from_configuration(validated(Configuration, configuration))
    assert first == SpawnClients(
        ".*", "alexnet", 2, "images", {"size": "small"}, arrival="expovariate", seed=7
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"duration": "10 parsecs"}, "duration: '10 parsecs' is no"),
        ({"duration": "0s"}, "duration: .*greater than 0"),
        ({"duration": ["10s"]}, "duration: "),
        ({"interval": "3s"}, "no multiple of the interval"),
        ({"workloads": []}, "workloads: .*at least 1"),
        ({"durration": "1s"}, "durration: there is no such field"),
        ({"workloads": [{"service": "s", "ticks": [1, 2]}]}, r"workloads\[0\].ticks: there are 2"),
        ({"workloads": [{"service": "s", "ticks": [-1] * 5}]}, r"workloads\[0\].ticks\[0\]: "),
        ({"workloads": [{"ticks": [1] * 5}]}, r"workloads\[0\].service: Field required"),
        (
            {"workloads": [{"service": "s", "ticks": [1] * 5, "arrival_pattern": "odd"}]},
            r"workloads\[0\].arrival_pattern: ",
        ),
        ({"workloads": GOOD["workloads"] * 2}, r"workloads\[1\].service: 'squeezenet' has"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        validated(Configuration, GOOD | changes)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("1h", 3600), ("500ms", 0.5), (90, 90)]
)
def test_times_have_units(text: str | float, seconds: float) -> None:
    workload = {"service": "s", "ticks": [1]}
    configuration = {"duration": text, "interval": text, "workloads": [workload]}
    assert validated(Configuration, configuration).duration == seconds


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.floats(0.1, 100))
def test_the_rate_at_each_moment_is_that_of_its_tick(ticks: list[int], interval: float) -> None:
    configuration = Configuration.model_validate(
        {
            "duration": interval * len(ticks),
            "interval": interval,
            "workloads": [{"service": "s", "ticks": ticks}],
        }
    )
    rates: list[float] = []
    rate = 0.0
    for step in from_configuration(configuration):
        match step:
            case WaitUntil():
                rates.append(rate)
            case SetRate():
                rate = step.rate
    assert rates[1:] == ticks
    assert rate == 0


def test_a_policy_is_known_by_all_its_names_and_is_for_services_alone() -> None:
    said = validated(Configuration, GOOD | {"policy": "Round Robin"})
    assert said.policy == "round_robin"
    assert validated(Configuration, GOOD).policy is None
    with pytest.raises(BadInput, match="policy: 'rund_robin' is none; there are peak_ewma"):
        validated(Configuration, GOOD | {"policy": "rund_robin"})
    elsewhere = {"service": "http://h:1/", "ticks": [1, 5, 5, 2, 0]}
    with pytest.raises(BadInput, match="http://h:1/ is a URL, and a policy is for services"):
        validated(Configuration, GOOD | {"policy": "random", "workloads": [elsewhere]})
