"""The lab's REST API before a real network: its registry, a load host, and the proxy there."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from bench.netlab.testing import within
from tests.e2e.targets import Target, two_targets

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def targets() -> Iterator[list[str]]:
    """Two servers that have nothing to do with Myxo, as `host:port`."""
    with two_targets(Target) as found:
        yield found


@pytest.fixture(scope="module")
def network(process_network: Any) -> Iterator[Any]:
    """A network with a load host; shared, as to start one is dear."""
    ports = [f"127.0.0.1:{process_network.daemons.free_port()}" for _ in range(2)]
    flags = ("--hostname", "h1", "--p2p-listen-addr", ports[0], "--prom-listen-addr", ports[1])
    joined = process_network.program_environment
    process_network.daemons(
        *("myxo", "lab", "host", *flags, "--proxy", f"127.0.0.1:{process_network.port()}"),
        **{name: joined[name] for name in ("P2P_BOOTSTRAPS", "P2P_PSK")},
    )
    yield process_network
    process_network.no_traceback()


@pytest.fixture(scope="module")
def api(network: Any) -> Iterator[httpx.Client]:
    """A client of the API, once that sees the load host."""
    address = f"127.0.0.1:{network.daemons.free_port()}"
    joined = network.program_environment
    network.daemons(
        *("myxo", "lab", "api", "--listen", address),
        **{name: joined[name] for name in ("P2P_BOOTSTRAPS", "P2P_PSK")},
    )
    with httpx.Client(base_url=f"http://{address}/api", timeout=PATIENCE_S) as client:
        within(PATIENCE_S, lambda: client.get("/hosts").json() == ["h1"], "there is no host h1")
        yield client


def answers(network: Any, service: str, count: int = 1) -> Counter[str]:
    found = [httpx.get(network.url(service), timeout=PATIENCE_S) for _ in range(count)]
    return Counter(answer.raise_for_status().text for answer in found)


def test_services_are_those_of_the_registry(network: Any, api: httpx.Client) -> None:
    first, second = network.add_echo_process(), network.add_echo_process()
    assert {first, second} <= {service["name"] for service in api.get("/services").json()}
    network.registry_cli("delete", first)
    there = {service["name"] for service in api.get("/services").json()}
    assert (first in there, second in there) == (False, True)


def test_requests_go_where_a_route_says_until_it_is_removed(
    network: Any, api: httpx.Client, targets: list[str]
) -> None:
    service = network.add_echo_process()
    discovered = answers(network, service)
    wanted = {"hosts": targets, "weights": [1, 3]}
    record = {"service": service} | wanted
    assert api.put(f"/routes/{service}", json=wanted).raise_for_status().json() == record
    assert api.get(f"/routes/{service}").json() == record
    assert record in api.get("/routes").json()
    ports = [target.partition(":")[2] for target in targets]
    assert answers(network, service, 40) == {ports[0]: 10, ports[1]: 30}
    shown = [sys.executable, "-m", "myxo", "rtable", "list"]
    env = network.daemons.environment
    assert service in subprocess.run(shown, env=env, capture_output=True, text=True).stdout  # noqa: PLW1510
    assert api.delete(f"/routes/{service}").raise_for_status().json() == service
    assert api.get(f"/routes/{service}").status_code == HTTPStatus.NOT_FOUND
    assert not set(answers(network, service)) & {*ports}
    assert discovered


def test_a_route_may_be_of_a_service_that_is_nowhere_else_and_all_are_cleared(
    network: Any, api: httpx.Client, targets: list[str]
) -> None:
    assert api.delete("/routes").json() == 0
    for name in ("elsewhere", "yonder"):
        api.put(f"/routes/{name}", json={"hosts": targets[:1]}).raise_for_status()
    assert answers(network, "elsewhere") == {targets[0].partition(":")[2]: 1}
    assert api.delete("/routes").json() == 2
    assert api.get("/routes").json() == []
    gone = httpx.get(network.url("elsewhere"), timeout=PATIENCE_S)
    assert gone.status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"hosts": ["127.0.0.1:{proxy}"]}, "is this proxy itself"),
        ({"hosts": ["nowhere"]}, "nowhere"),
        ({"hosts": ["h:1"], "weights": [1, 2]}, "weight"),
        ({"hosts": ["h:1"], "weights": [-1]}, "weight"),
    ],
)
def test_what_the_proxy_refuses_is_answered_with_its_reason(
    network: Any, api: httpx.Client, wanted: dict[str, Any], reason: str
) -> None:
    hosts = [host.format(proxy=network.port()) for host in wanted["hosts"]]
    answer = api.put("/routes/refused", json=wanted | {"hosts": hosts})
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert reason in answer.json()["detail"]
    assert api.get("/routes/refused").status_code == HTTPStatus.NOT_FOUND


def test_a_name_that_no_service_can_have_is_refused(api: httpx.Client) -> None:
    answer = api.put("/routes/No_Name", json={"hosts": ["h:1"]})
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert "No_Name" in answer.json()["detail"]


def test_a_route_that_is_not_there_cannot_be_removed(api: httpx.Client) -> None:
    answer = api.delete("/routes/nobody")
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert "'nobody'" in answer.json()["detail"]


def test_a_proxy_that_is_gone_is_said_and_what_was_set_outlives_it(
    network: Any, api: httpx.Client, targets: list[str]
) -> None:
    api.put("/routes/lasting", json={"hosts": targets[:1]}).raise_for_status()
    network.kill("proxy")
    refused = api.get("/routes")
    network.restart("proxy")
    assert refused.status_code == HTTPStatus.BAD_GATEWAY
    assert "no proxy" in refused.json()["detail"]
    within(
        PATIENCE_S,
        lambda: api.get("/routes/lasting").status_code == HTTPStatus.OK,
        "there is no route",
    )
    assert answers(network, "lasting") == {targets[0].partition(":")[2]: 1}
    assert api.delete("/routes/lasting").status_code == HTTPStatus.OK
