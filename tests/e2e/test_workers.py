"""A proxy with workers: several processes answer at one port, and each may die."""

import os
import signal
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import trio

from tests.e2e.restart_load import Load, under_load
from tests.e2e.worker_network import (
    PATIENCE_S,
    PROXY,
    SERVER,
    await_end,
    await_workers,
    has_workers,
    held_by,
    holder_of,
    metrics_address,
    rtable,
    scraped,
    url,
    why,
    workers,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def network(process_network: Any) -> Any:
    """A network with a proxy that has a worker beside the daemon itself."""
    return has_workers(process_network, 2)


def test_both_processes_answer_and_a_killed_worker_is_replaced(network: Any) -> None:
    service = network.add_process("lasting", SERVER)
    (worker,) = await_workers(network)
    served = Counter[int | None]()
    daemon = network.running[PROXY].process.pid
    for _ in range(60):  # each connection goes to whoever accepts it first
        with httpx.Client(timeout=60) as client:
            answer = client.get(url(network, service))
            assert answer.status_code == 200
            served[holder_of(network, answer, daemon, worker["pid"])] += 1
    assert served.keys() == {daemon, worker["pid"]}, served

    assert scraped(network, service) == 60, "counts are of both"
    (worker,) = workers(network)
    assert worker["requests"] == served[worker["pid"]]
    decided = why(network, service)
    assert len({d["request_id"].partition("-")[0] for d in decided}) == 2, "of both as well"

    os.kill(worker["pid"], signal.SIGKILL)
    for _ in range(30):
        assert httpx.get(url(network, service), timeout=60).status_code == 200
    (other,) = await_workers(network)
    assert other["pid"] != worker["pid"]
    assert scraped(network, service) == 90, "what the dead one had counted stays"
    network.no_traceback()


def test_a_worker_starts_what_is_cold_and_keeps_what_it_uses(network: Any) -> None:
    service = network.add_process("lasting", SERVER, idle_pause_s=0.3)
    (worker,) = await_workers(network)
    with held_by(network, worker["pid"]) as client:
        answer = client.get(url(network, service), headers={"Myxo-Explain": "1"})
        assert answer.status_code == 200, answer.text
        with client.stream("GET", url(network, service, "/drip?40")) as drip:
            body = b"".join(drip.iter_raw())  # far longer than it takes to be paused
        assert body == b"".join(b"%d\n" % n for n in range(40))
        time.sleep(2)
        assert client.get(url(network, service)).status_code == 200, "and it comes back"
    network.no_traceback()


def test_rates_and_routes_are_those_of_one_proxy(network: Any) -> None:
    limit = {"per_s": 0.001, "burst": 6}
    service = network.add_process("limited", SERVER, rate_limit=limit)
    (worker,) = await_workers(network)
    daemon = network.running[PROXY].process.pid
    with held_by(network, worker["pid"]) as one, held_by(network, daemon) as other:
        statuses = [
            c.get(url(network, service)).status_code for _ in range(5) for c in (one, other)
        ]
        assert statuses.count(200) == 6, statuses
        assert set(statuses) == {200, 429}

        target = metrics_address(network, "registry")
        told = rtable(network, {"do": "set", "service": "elsewhere", "hosts": [target]})
        assert "record" in told, told
        deadline = time.monotonic() + PATIENCE_S
        for client in (one, other):
            while client.get(url(network, "elsewhere", "/metrics")).status_code != 200:
                assert time.monotonic() < deadline
    network.no_traceback()


async def test_a_new_process_takes_over_from_all_of_them(network: Any) -> None:
    service = network.add_process("lasting", SERVER)
    (worker,) = await trio.to_thread.run_sync(await_workers, network)
    old = network.running[PROXY].process
    load = Load(network.port(PROXY), service)
    with trio.fail_after(300):
        await load.download(1)
        async with under_load(load), trio.open_nursery() as downloads:
            for _ in range(4):
                downloads.start_soon(load.download, 50)
            await trio.sleep(1)
            command = network.commands[PROXY]
            network.commands[PROXY] = ("proxy", "--takeover", *command[1:])
            await trio.to_thread.run_sync(network.restart, PROXY)
            network.commands[PROXY] = command
            await trio.sleep(1)
        assert await trio.to_thread.run_sync(old.wait) == 0
    assert load.failed == []
    await trio.to_thread.run_sync(await_end, worker["pid"])
    (other,) = await trio.to_thread.run_sync(await_workers, network)
    assert other["pid"] != worker["pid"]
    network.no_traceback()


def test_a_worker_ends_with_its_daemon_however_that_ends(network: Any) -> None:
    (worker,) = await_workers(network)
    network.kill(PROXY)
    await_end(worker["pid"])
    network.restart(PROXY)  # the port is free
    (other,) = await_workers(network)
    assert network.kill(PROXY, signal.SIGTERM) == 0
    await_end(other["pid"])
    network.no_traceback()
