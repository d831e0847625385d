"""A proxy with workers, and what it says of them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import trio

from overlay.control import open_control

SERVER = Path(__file__).with_name("lasting_server.py")
PATIENCE_S = 60.0
PROXY = "many"
"""The proxy's name in its network."""


def has_workers(network: Any, count: int) -> Any:
    """Have a proxy with so many processes in a network."""
    port = str(network.daemons.free_port())
    network.join(PROXY, "proxy", "--workers", str(count), port)
    return network


def url(network: Any, service: str, path: str = "/") -> str:
    """Return where the proxy answers for a service."""
    return str(network.url(service, path, PROXY))


def await_end(pid: int) -> None:
    """Return once a process is gone."""
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"{pid} is there still"
        time.sleep(0.02)


def await_workers(network: Any, count: int = 1) -> list[dict[str, Any]]:
    """Return the workers once there are so many, and all accept."""
    deadline = time.monotonic() + PATIENCE_S
    while len(found := workers(network)) != count or not all(w["accepts"] for w in found):
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
    kept = httpx.Limits(keepalive_expiry=None)  # it would open another one after five seconds
    while time.monotonic() < deadline:
        with httpx.Client(timeout=60, limits=kept) as client:
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
