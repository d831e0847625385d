"""A change of what a program cannot see leaves it running, over a whole network of processes."""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def network(process_network: Any) -> Iterator[Any]:
    yield process_network
    process_network.no_traceback()


def pids(network: Any, name: str) -> set[int]:
    """Return which processes answer a few requests, one after the other."""
    answers = [httpx.get(network.url(name), timeout=PATIENCE_S) for _ in range(8)]
    return {answer.json()["pid"] for answer in answers if answer.status_code == HTTPStatus.OK}


def becomes(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_goes_on_under_other_numbers_and_goes_when_its_program_changes(
    network: Any,
) -> None:
    name = network.add_echo_process(max_instances=1, idle_pause_s=0)
    (first,) = pids(network, name)
    more = {"max_instances": 3, "min_instances": 2, "policy": "round_robin"}
    network.add_echo_process(name=name, **more)
    becomes(lambda: len(pids(network, name)) == 2)
    assert first in pids(network, name)
    network.add_echo_process(name=name, max_instances=1, min_instances=1, policy="round_robin")
    becomes(lambda: len(pids(network, name)) == 1)
    (last,) = pids(network, name)
    network.registry_cli("rollback", name, "1")
    assert pids(network, name) == {last}
    network.add_echo_process(name=name, env={"MODE": "new"})
    becomes(lambda: not pids(network, name) <= {last})
    becomes(lambda: last not in pids(network, name))


def test_an_allocator_that_restarts_has_its_instances_serve_a_later_revision(
    network: Any,
) -> None:
    name = network.add_echo_process(concurrency=4)
    (first,) = pids(network, name)
    network.add_echo_process(name=name, concurrency=9)
    network.kill("allocator")
    network.restart("allocator")
    becomes(lambda: bool(pids(network, name)))
    assert pids(network, name) == {first}
