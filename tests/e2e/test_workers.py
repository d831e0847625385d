"""A proxy with workers: several processes answer at one port, and each may die."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from overlay.control import open_control
from tests.e2e.restart_load import Load, under_load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("lasting_server.py")
PATIENCE_S = 60.0
PROXY = "many"
"""The proxy's name in its network."""


@pytest.fixture(scope="module")
def network(process_network: Any) -> Any:
    """A network with a proxy that has a worker beside the daemon itself."""
    port = str(process_network.daemons.free_port())
    process_network.join(PROXY, "proxy", "--workers", "2", port)
    return process_network


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


def url(network: Any, service: str, path: str = "/") -> str:
    """Return where the proxy answers for a service."""
    return str(network.url(service, path, PROXY))


def await_end(pid: int) -> None:
    """Return once a process is gone."""
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"{pid} is there still"
        time.sleep(0.02)


def await_workers(network: Any) -> list[dict[str, Any]]:
    """Return the workers once there is one, and all accept."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := workers(network)) or not all(w["accepts"] for w in found):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def workers(network: Any) -> list[dict[str, Any]]:
    """Return what the proxy says of its workers."""
    found: list[dict[str, Any]] = ask(network, "status")["workers"]
    return found


def why(network: Any, about: str) -> list[dict[str, Any]]:
    """Return the decisions that the proxy remembers."""
    found: list[dict[str, Any]] = ask(network, "why", {"about": about})["decisions"]
    return found


def rtable(network: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Give a command for the routing table."""
    return ask(network, "rtable", command)


def ask(network: Any, want: str, *lines: dict[str, Any]) -> dict[str, Any]:
    """Ask the proxy something at its control socket."""
    path = network.daemons.folder / "state" / "run" / f"proxy-{network.port(PROXY)}.sock"

    async def read() -> bytes | None:
        with trio.fail_after(30):
            async with open_control(path, want) as connection:
                await connection.send(*lines)
                return await connection.receive()

    line = trio.run(read)
    assert line is not None
    answer: dict[str, Any] = json.loads(line)
    return answer


def scraped(network: Any, service: str) -> int:
    """Return how many requests of a service were answered, by the proxy's metrics."""
    text = httpx.get(f"http://{metrics_address(network, PROXY)}/metrics", timeout=30).text
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("myxo_proxy_requests_total") and f'service="{service}"' in line
    ]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def metrics_address(network: Any, name: str) -> str:
    """Return where a daemon tells its metrics."""
    command = network.commands[name]
    return str(command[command.index("--prom-listen-addr") + 1])


@contextmanager
def held_by(network: Any, pid: int) -> Iterator[httpx.Client]:
    """Yield a client whose connection one process of the proxy has accepted."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with httpx.Client(timeout=60) as client:
            answer = client.get(f"http://127.0.0.1:{network.port(PROXY)}/")
            if holder_of(network, answer, pid) == pid:
                yield client
                return
    raise AssertionError(f"{pid} accepts nothing")


def holder_of(network: Any, answer: httpx.Response, *pids: int) -> int | None:
    """Return which of some processes holds the other end of an answer's connection."""
    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
    held = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(field.rpartition(":")[2], 16) for field in fields[1:3]] == [
            network.port(PROXY),
            port,
        ]:
            held = f"socket:[{fields[9]}]"
    assert held
    return next((pid for pid in pids if held in descriptors(pid)), None)


def descriptors(pid: int) -> set[str]:
    """Return what a process has open."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return found
