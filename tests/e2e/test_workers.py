"""A proxy with workers: several processes answer at one port, and each may die."""

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from overlay.control import open_control

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("lasting_server.py")
PATIENCE_S = 60.0


@pytest.fixture
def network(make_network: Any, daemons: Any) -> Any:
    """A network whose proxy has a worker beside the daemon itself."""
    made = make_network(daemons)
    made.start("bootstrap", "bootstrap")
    printed = made.running["bootstrap"].printed()
    made.address = next(line for line in printed.splitlines() if line.startswith("/ip4/"))
    made.join("registry", "registry-service")
    gateway = f"127.0.0.1:{daemons.free_port()}"
    made.join("allocator", "allocator", "--runtime", "process", "--gateway-listen-addr", gateway)
    made.join("proxy", "proxy", "--workers", "2", str(daemons.free_port()))
    return made


def test_both_processes_answer_and_a_killed_worker_is_replaced(network: Any) -> None:
    service = network.add_process("lasting", SERVER)
    (worker,) = await_workers(network)
    served = Counter[int]()
    daemon = network.running["proxy"].process.pid
    for _ in range(60):  # each connection goes to whoever accepts it first
        with httpx.Client(timeout=60) as client:
            answer = client.get(network.url(service))
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
        assert httpx.get(network.url(service), timeout=60).status_code == 200
    (other,) = await_workers(network)
    assert other["pid"] != worker["pid"]
    assert scraped(network, service) == 90, "what the dead one had counted stays"
    stop(network, other["pid"])
    network.no_traceback()


def test_a_worker_starts_what_is_cold_and_keeps_what_it_uses(network: Any) -> None:
    service = network.add_process("lasting", SERVER, idle_pause_s=0.3)
    (worker,) = await_workers(network)
    with held_by(network, worker["pid"]) as client:
        answer = client.get(network.url(service), headers={"Myxo-Explain": "1"})
        assert answer.status_code == 200, answer.text
        with client.stream("GET", network.url(service, "/drip?40")) as drip:
            body = b"".join(drip.iter_raw())  # far longer than it takes to be paused
        assert body == b"".join(b"%d\n" % n for n in range(40))
        time.sleep(2)
        assert client.get(network.url(service)).status_code == 200, "and it comes back"
    stop(network, worker["pid"])
    network.no_traceback()


def test_rates_and_routes_are_those_of_one_proxy(network: Any) -> None:
    limit = {"per_s": 0.001, "burst": 6}
    service = network.add_process("limited", SERVER, rate_limit=limit)
    (worker,) = await_workers(network)
    daemon = network.running["proxy"].process.pid
    with held_by(network, worker["pid"]) as one, held_by(network, daemon) as other:
        statuses = [c.get(network.url(service)).status_code for _ in range(5) for c in (one, other)]
        assert statuses.count(200) == 6, statuses
        assert set(statuses) == {200, 429}

        target = metrics_address(network, "registry")
        told = rtable(network, {"do": "set", "service": "elsewhere", "hosts": [target]})
        assert "record" in told, told
        deadline = time.monotonic() + PATIENCE_S
        for client in (one, other):
            while client.get(network.url("elsewhere", "/metrics")).status_code != 200:
                assert time.monotonic() < deadline
    stop(network, worker["pid"])
    network.no_traceback()


def test_a_worker_ends_with_its_daemon_however_that_ends(network: Any) -> None:
    (worker,) = await_workers(network)
    network.kill("proxy")
    await_end(worker["pid"])
    network.restart("proxy")  # the port is free
    (other,) = await_workers(network)
    stop(network, other["pid"])


def stop(network: Any, worker: int) -> None:
    """Stop the proxy; fail if it leaves its worker behind, or has met a problem."""
    assert network.kill("proxy", signal.SIGTERM) == 0
    await_end(worker)


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
    path = network.daemons.folder / "state" / "run" / f"proxy-{network.port()}.sock"

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
    text = httpx.get(f"http://{metrics_address(network, 'proxy')}/metrics", timeout=30).text
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


def held_by(network: Any, pid: int, *others: int) -> httpx.Client:
    """Return a client whose connection one process of the proxy has accepted."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        client = httpx.Client(timeout=60)
        answer = client.get(f"http://127.0.0.1:{network.port()}/")
        if holder_of(network, answer, pid, *others) == pid:
            return client
        client.close()
    raise AssertionError(f"{pid} accepts nothing")


def holder_of(network: Any, answer: httpx.Response, *pids: int) -> int | None:
    """Return which of some processes holds the other end of an answer's connection."""
    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
    held = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(field.rpartition(":")[2], 16) for field in fields[1:3]] == [network.port(), port]:
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
