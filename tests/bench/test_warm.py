from typing import Any

import pytest

from bench.client import AnswerFailed
from bench.warm import added, instance_address


def test_what_a_hop_adds_is_taken_round_by_round() -> None:
    rounds = {"direct": [1.0, 10.0], "myxo": [2.0, 12.0], "envoy": [3.0, 13.0]}
    assert added(rounds, "myxo") == [1.0, 2.0]
    assert added(rounds, "envoy") == [2.0, 3.0]


def test_the_instance_is_where_the_allocator_says() -> None:
    daemons: list[dict[str, Any]] = [
        {"role": "proxy"},
        {"own_instances": [{"service": "a", "address": "172.18.0.2:8080"}]},
    ]
    assert instance_address(daemons) == ("172.18.0.2", 8080)


def test_without_an_instance_there_is_nothing_to_measure() -> None:
    with pytest.raises(AnswerFailed, match="where the instance listens"):
        instance_address([{"own_instances": []}])
