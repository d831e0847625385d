"""A proxy of three processes: what dies takes nothing else along, and all are one to everybody."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.e2e.worker_network import (
    PATIENCE_S,
    PROXY,
    SERVER,
    await_workers,
    has_workers,
    held_by,
    metrics_address,
    scraped,
    url,
    why,
    workers,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DRIPPED = b"".join(b"%d\n" % number for number in range(30))


@pytest.fixture(scope="module")
def network(process_network: Any) -> Any:
    return has_workers(process_network, 3)


@pytest.fixture
def held(network: Any) -> Iterator[list[tuple[int, httpx.Client]]]:
    """Three clients, each with a connection that another process has accepted; the daemon last."""
    pids = [worker["pid"] for worker in await_workers(network, 2)]
    pids.append(network.running[PROXY].process.pid)
    with ExitStack() as stack:
        yield [(pid, stack.enter_context(held_by(network, pid))) for pid in pids]
    network.no_traceback()


class Drip(threading.Thread):
    """An answer that takes three seconds, on a client's connection."""

    def __init__(self, client: httpx.Client, at: str) -> None:
        super().__init__()
        self._client, self._at = client, at
        self.begun = threading.Event()
        self.body, self.error = b"", ""
        self.start()
        assert self.begun.wait(PATIENCE_S)

    def run(self) -> None:
        try:
            with self._client.stream("GET", self._at) as answer:
                for part in answer.iter_raw():
                    self.body += part
                    self.begun.set()
        except httpx.HTTPError as exc:
            self.error = repr(exc)
        self.begun.set()


def test_a_worker_that_is_killed_takes_its_own_requests_and_nothing_else(
    network: Any, held: list[tuple[int, httpx.Client]]
) -> None:
    service = network.add_process("lasting", SERVER, idle_pause_s=1, idle_stop_s=600)
    assert httpx.get(url(network, service), timeout=60).status_code == 200
    drips = [Drip(client, url(network, service, "/drip?30")) for _, client in held]
    counted = scraped(network, service)
    victim, client = held[0]
    os.kill(victim, signal.SIGKILL)
    assert client.get(url(network, service)).status_code == 200, "who asks again is served"
    for drip in drips:
        drip.join(PATIENCE_S)
    assert drips[0].error
    assert [drip.error for drip in drips[1:]] == ["", ""]
    assert [drip.body for drip in drips[1:]] == [DRIPPED] * 2
    after = [worker["pid"] for worker in await_workers(network, 2)]
    assert victim not in after
    assert held[1][0] in after, "the other is the same"
    assert scraped(network, service) == counted + 3
    await_state(network, "paused")  # so the lease of the dead one is back
    assert httpx.get(url(network, service), timeout=60).status_code == 200


def await_state(network: Any, state: str) -> None:
    """Return once every instance of the network's allocator is in one state."""
    at = metrics_address(network, "allocator")
    deadline = time.monotonic() + PATIENCE_S
    states: set[str] = set()
    while states != {state}:
        assert time.monotonic() < deadline, states
        text = httpx.get(f"http://{at}/metrics", timeout=30).text
        found = re.findall(r'^myxo_allocator_instances{state="(\w+)"} (\S+)$', text, re.MULTILINE)
        states = {name for name, count in found if float(count)}


def test_a_worker_that_dies_again_and_again_is_started_ever_later(network: Any) -> None:
    (victim, other) = (worker["pid"] for worker in await_workers(network, 2))
    for least_s in (0.1, 0.2, 0.4):
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        (victim,) = {w["pid"] for w in await_other(network, victim)} - {other}
        assert time.monotonic() - killed >= least_s
    assert httpx.get(f"http://127.0.0.1:{network.port(PROXY)}/", timeout=60).status_code == 404
    network.no_traceback()


def await_other(network: Any, gone: int) -> list[dict[str, Any]]:
    """Return the workers once another one is in a dead one's place."""
    deadline = time.monotonic() + PATIENCE_S
    found = workers(network)
    while len(found) != 2 or gone in [worker["pid"] for worker in found]:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
        found = workers(network)
    return found


def test_a_rate_is_exact_over_all_of_them(
    network: Any, held: list[tuple[int, httpx.Client]]
) -> None:
    limit = {"per_s": 0.001, "burst": 10}
    service = network.add_process("limited", SERVER, rate_limit=limit)
    statuses: list[int] = []

    def ask(client: httpx.Client) -> None:
        statuses.extend(client.get(url(network, service)).status_code for _ in range(7))

    threads = [threading.Thread(target=ask, args=(client,)) for _, client in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(statuses) == [200] * 10 + [429] * 11


def test_why_and_the_counts_are_of_all_of_them(
    network: Any, held: list[tuple[int, httpx.Client]]
) -> None:
    service = network.add_process("lasting", SERVER)
    for number, (_, client) in enumerate(held, 1):
        for _ in range(number):
            assert client.get(url(network, service)).status_code == 200
    assert scraped(network, service) == 1 + 2 + 3
    decided = why(network, service)
    assert len(decided) == 6
    assert len({one["request_id"].partition("-")[0] for one in decided}) == 3
    text = httpx.get(f"http://{metrics_address(network, PROXY)}/metrics", timeout=30).text
    buckets = re.findall(
        rf'^myxo_proxy_request_duration_seconds_count{{.*service="{service}".*}} (\S+)$',
        text,
        re.MULTILINE,
    )
    assert sum(map(float, buckets)) == 6
    for one in decided:
        (same,) = why(network, one["request_id"])
        assert {**same, "at": 0} == {**one, "at": 0}
