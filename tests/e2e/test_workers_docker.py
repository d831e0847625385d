"""A proxy of three processes, and containers: each starts them and answers their calls."""

import signal
from typing import Any

import pytest

from tests.e2e.test_circles import calling
from tests.e2e.worker_network import PROXY, await_workers, has_workers, held_by, url

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def network(docker_network: Any) -> Any:
    """A network whose only proxy has workers, so that containers call through that one."""
    code = docker_network.kill("proxy", signal.SIGTERM)
    assert code == 0, docker_network.running["proxy"].printed()
    return has_workers(docker_network, 3)


def test_each_process_starts_containers_and_what_they_call(
    network: Any, echo_image: str, containers_of: Any
) -> None:
    pids = [worker["pid"] for worker in await_workers(network, 2)]
    for pid in [*pids, network.running[PROXY].process.pid]:
        web, data = network.name("web"), network.name("data")
        calling(network, echo_image, web, data)
        network.add_echo(echo_image, name=data)
        with held_by(network, pid) as client:
            answer = client.get(url(network, web))
        assert answer.status_code == 200, answer.text
        assert answer.text.startswith(f"{data} said: {{")
        assert f'"X-Myxo-Chain": "{web}"' in answer.text, "the call is known to be its"
        assert [len(containers_of(name)) for name in (web, data)] == [1, 1]
    network.no_traceback()
