"""Daemons and containers that are killed while requests run, and what is left afterwards."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.netlab.testing import within
from tests.template import template

pytestmark = pytest.mark.slow

Containers = Callable[[str], list[Any]]
TIMEOUT_S = 60.0
CALLS = """
import os, sys, urllib.request
url = "http://127.0.0.1:" + os.environ["PROXY_PORT"] + "/" + sys.argv[1] + "/"
print(urllib.request.urlopen(url, timeout=50).read().decode())
"""
CLEAR = {502, 503, 504}
"""What may be answered while something is down; each has a text that says what."""


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=TIMEOUT_S)


def is_up(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def status(environment: dict[str, str]) -> dict[str, Any]:
    done = template().run(("myxo", "status", "--json"), environment, TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def network(docker_network: Any) -> Iterator[Any]:
    """The module's network, in good order before and after each test."""
    yield docker_network
    for name in ("bootstrap", "registry", "allocator", "proxy"):
        if docker_network.running[name].process.poll() is not None:
            docker_network.restart(name)
    docker_network.no_traceback()


@pytest.mark.docker
def test_a_killed_container_is_replaced_by_the_next_request(
    network: Any, echo_image: str, containers_of: Containers, stream: Any
) -> None:
    name = network.add_echo(echo_image)
    get(network.url(name))
    with stream(network.url(name)) as seen:
        seen.await_more(20)
        (first,) = containers_of(name)
        first.kill("SIGKILL")
        seen.await_more(50)
    assert seen.failed == [], "the proxy cut no connection"
    assert seen.statuses() <= {200} | CLEAR
    bad = [a.text for a in seen.answered if a.status_code != 200]
    assert len(bad) <= 2, "a request that hit the dead one goes to the new one"
    within(TIMEOUT_S, lambda: [c.status for c in containers_of(name)] == ["running"], "one runs")
    assert containers_of(name)[0].id != first.id


@pytest.mark.docker
def test_a_killed_allocator_takes_its_containers_back(
    network: Any,
    echo_image: str,
    containers_of: Containers,
    hostname_of: Callable[[Any], str],
    stream: Any,
) -> None:
    name = network.add_echo(echo_image)
    get(network.url(name))
    (before,) = containers_of(name)
    with stream(network.url(name)) as seen:
        seen.await_more(20)
        network.kill("allocator")
        assert get(network.url(name)).status_code in {200} | CLEAR
        network.restart("allocator")
        seen.await_more(50)
    assert seen.failed == [], "the proxy answers, whatever it is"
    assert seen.statuses() <= {200} | CLEAR
    (after,) = containers_of(name)
    assert after.id == before.id, "it is the same one"
    assert {json.loads(a.text)["instance"] for a in seen.answered if a.status_code == 200} == {
        hostname_of(before)
    }
    (own,) = [
        i
        for d in status(network.daemons.environment)["daemons"]
        for i in d.get("own_instances", [])
        if i["service"] == name
    ]
    assert own["state"] == "ready"
    network.registry_cli("delete", name)
    within(TIMEOUT_S, lambda: containers_of(name) == [], "it can be stopped like any other")


@pytest.mark.docker
def test_who_calls_for_the_first_time_while_its_allocator_is_dead_is_known(
    network: Any, echo_image: str, containers_of: Containers
) -> None:
    gateway = f"127.0.0.1:{network.daemons.free_port()}"
    apart = ("--state-dir", str(network.daemons.folder / "other"))
    flags = ("--runtime", "process", "--gateway-listen-addr", gateway, *apart)
    network.join("other", "allocator", *flags)
    try:
        caller, target = network.add_echo(echo_image), network.add_echo_process()
        assert get(network.url(caller)).status_code == 200
        assert get(network.url(target)).status_code == 200
        (container,) = containers_of(caller)
        network.kill("allocator")
        told = container.exec_run(["python3", "-c", CALLS, target])
    finally:
        network.kill("other", signal.SIGTERM)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["headers"]["X-Myxo-Chain"] == caller


@pytest.mark.docker
def test_what_was_deleted_while_the_allocator_was_dead_is_stopped_when_it_is_back(
    network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = network.add_echo(echo_image)
    assert get(network.url(name)).status_code == 200
    network.kill("allocator")
    network.registry_cli("delete", name)
    network.restart("allocator")
    within(TIMEOUT_S, lambda: containers_of(name) == [], "nothing is orphaned")


@pytest.mark.docker
def test_with_every_registry_dead_known_services_answer_and_new_names_are_503(
    network: Any, echo_image: str, stream: Any
) -> None:
    running = network.add_echo(echo_image)
    cold = network.add_echo(echo_image)
    get(network.url(running))
    within(TIMEOUT_S, lambda: get(network.url(cold)).status_code == 200, "the proxy knows it")
    with stream(network.url(running)) as seen:
        network.kill("registry")
        seen.await_more(50)
        unknown = get(network.url("nobody-knows"))
        assert unknown.status_code == 503
        assert int(unknown.headers["Retry-After"]) > 0
        assert get(network.url(cold)).status_code == 200
        network.restart("registry")
        seen.await_more(20)
    assert seen.failed == []
    assert seen.statuses() == {200}
    listed = network.registry_cli("list").stdout
    assert running in listed
    assert cold in listed
    within(
        TIMEOUT_S,
        lambda: get(network.url("nobody-knows")).status_code == 404,
        "the registry is asked again",
    )
    later = network.add_echo(echo_image)
    assert get(network.url(later)).status_code == 200


@pytest.mark.docker
def test_with_the_bootstrap_dead_services_answer_and_start_and_it_comes_back_as_itself(
    network: Any, echo_image: str, stream: Any
) -> None:
    name, cold = network.add_echo(echo_image), network.add_echo(echo_image)
    get(network.url(name))
    with stream(network.url(name)) as seen:
        network.kill("bootstrap")
        seen.await_more(20)
        assert get(network.url(cold)).status_code == 200
        network.restart("bootstrap")
        assert network.address in network.running["bootstrap"].printed(), "the same peer id"
        within(
            TIMEOUT_S,
            lambda: len(own_peers(network, "bootstrap")) == 3,
            "everybody connects to it again",
        )
        seen.await_more(20)
    assert seen.failed == []
    assert seen.statuses() == {200}


def own_peers(network: Any, role: str) -> list[Any]:
    """Return the living daemons that the daemon of one role sees."""
    path = Path(network.daemons.environment["MYXO_STATE_DIR"], "run", f"{role}.sock")
    return [
        p
        for p in json.loads(ask_status(path))["peers"]
        if p["role"] != "client" and p["state"] == "alive" and p["role"] != role
    ]


def ask_status(path: Path) -> str:
    """Return what one daemon says on its control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(b'{"want":"status"}\n')
        with sock.makefile() as lines:
            return lines.readline()


@pytest.mark.docker
def test_a_killed_proxy_serves_again_at_once_and_its_leases_are_gone(
    network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = network.add_echo(echo_image, idle_stop_s=1.5)
    assert get(network.url(name)).status_code == 200
    network.kill("proxy")
    network.restart("proxy")
    assert get(network.url(name)).status_code == 200
    network.kill("proxy")
    within(TIMEOUT_S, lambda: containers_of(name) == [], "what nobody uses is stopped")


@pytest.mark.docker
def test_sigterm_ends_each_daemon_well_within_five_seconds(
    network: Any, echo_image: str, containers_of: Containers
) -> None:
    name = network.add_echo(echo_image)
    assert get(network.url(name)).status_code == 200
    for daemon in ("proxy", "allocator", "registry", "bootstrap"):
        began = time.monotonic()
        assert network.kill(daemon, signal.SIGTERM) == 0, daemon
        assert time.monotonic() - began < 5, daemon
    assert containers_of(name) == []
    for daemon in ("bootstrap", "registry", "allocator", "proxy"):
        network.restart(daemon)
    within(TIMEOUT_S, lambda: get(network.url(name)).status_code == 200, "all is well again")


@pytest.mark.etcd
def test_a_killed_etcd_loses_nothing_and_traffic_flows(
    daemons: Any, make_network: Any, stream: Any
) -> None:
    network = make_network(daemons)
    ports = (str(daemons.free_port()), str(daemons.free_port()))
    network.found(
        "process",
        *("--new-etcd-cluster", "--etcd-client-port", ports[0], "--etcd-peer-port", ports[1]),
    )
    name = network.add_echo_process()
    assert get(network.url(name)).status_code == 200
    registry = network.running["registry"].process.pid
    (member,) = children(registry)
    with stream(network.url(name)) as seen:
        os.kill(member, signal.SIGKILL)
        seen.await_more(20)
        within(TIMEOUT_S, lambda: children(registry) not in ([], [member]), "it is started again")
        within(
            TIMEOUT_S,
            lambda: name in network.registry_cli("list", check=False).stdout,
            "and has everything",
        )
        later = network.add_echo_process()
        assert get(network.url(later)).status_code == 200
        network.kill("registry")
        within(TIMEOUT_S, lambda: not any(map(is_up, [member])), "etcd ends with its service")
        network.restart("registry")
        listed = network.registry_cli("list").stdout
        assert name in listed
        assert later in listed
    assert seen.failed == []
    assert seen.statuses() == {200}
    network.no_traceback()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for file in threads for child in (file.read_text() + text).split()})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_myxo_up_leaves_nothing_behind(
    daemons: Any, make_network: Any, number: signal.Signals
) -> None:
    state = Path(daemons.environment["MYXO_STATE_DIR"])
    network = make_network(daemons)
    proxy = str(daemons.free_port())
    up = daemons(
        *("myxo", "up", "--runtime", "process", "--hostname", "here", "--proxy-port", proxy),
        *("--p2p-listen-addr", f"127.0.0.1:{daemons.free_port()}"),
    )
    name = network.add_echo_process()
    assert get(f"http://127.0.0.1:{proxy}/{name}/").status_code == 200
    pids = [d["pid"] for d in status(daemons.environment)["daemons"]]
    instance = get(f"http://127.0.0.1:{proxy}/{name}/").json()["pid"]
    assert len(pids) == 4
    assert all(is_up(pid) for pid in [*pids, instance])

    began = time.monotonic()
    up.process.send_signal(number)
    up.process.wait(10)
    if number is signal.SIGINT:
        assert up.process.returncode == 0, up.printed()
        assert time.monotonic() - began < 5
    within(
        TIMEOUT_S, lambda: not any(is_up(pid) for pid in [*pids, instance]), "no process is left"
    )
    assert list(state.glob("run/*.sock")) == []
    if number is signal.SIGINT:
        assert not (state / "network.toml").exists()
    assert "Traceback" not in up.printed()
