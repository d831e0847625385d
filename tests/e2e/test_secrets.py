"""A secret in a service's environment or command is seen by its instances and nowhere else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECRET = "hush-8d1f02a7"
TIMEOUT_S = 60.0


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=TIMEOUT_S)


def outside_of_instances(engine: docker.DockerClient, service: str) -> str:
    """Return what the engine shows of containers, less what their programs are given."""
    shown = []
    for container in engine.containers.list(
        all=True, ignore_removed=True, filters={"name": f"myxo-{service}"}
    ):
        given = container.attrs["Config"]
        assert f"TOKEN={SECRET}" in given.pop("Env")
        for key in ("Cmd", "Entrypoint"):
            given.pop(key, None)
        shown.append(json.dumps(container.attrs | {"Path": "", "Args": []}))
    return "\n".join(shown)


def sandboxes(engine: docker.DockerClient) -> str:
    """Return everything that the engine shows of containers of ours that run no service."""
    ours = engine.containers.list(all=True, ignore_removed=True, filters={"label": "myxo.owner"})
    others = [c for c in ours if "myxo.service" not in c.labels]
    return json.dumps([c.attrs for c in others])


def metrics(network: Any) -> str:
    pages = []
    for command in network.commands.values():
        address = command[command.index("--prom-listen-addr") + 1]
        pages.append(get(f"http://{address}/metrics").text)
    return "\n".join(pages)


def status(network: Any) -> str:
    program = str(Path(sys.executable).parent / "myxo")
    shown: bytes = subprocess.check_output(
        [program, "status", "--json"], env=network.daemons.environment
    )
    return shown.decode()


def test_a_secret_is_in_no_label_log_status_metric_or_error(
    daemons: Any,
    make_network: Callable[[Any], Any],
    engine: docker.DockerClient,
    echo_image: str,
) -> None:
    daemons.environment["MYXO_LOG_LEVEL"] = "debug"
    network = make_network(daemons)
    network.found("docker")
    try:
        env = {"TOKEN": SECRET}
        well = network.add_echo(echo_image, env=env)
        leaky = f"echo {SECRET} > /dev/null; exit 3"
        ill = network.add_image("ill", echo_image, leaky, env=env, ready_timeout_s=5)
        large = network.add_echo(echo_image, env=env, MemoryReq=9_000_000)
        answers = {name: get(network.url(name)) for name in (well, ill, large)}
        assert [a.status_code for a in answers.values()] == [200, 503, 503]
        places = {
            "labels": outside_of_instances(engine, well),
            "sandboxes": sandboxes(engine),
            "status": status(network),
            "metrics": metrics(network),
            "errors": answers[ill].text + answers[large].text,
            "headers": "\n".join(str(a.headers) for a in answers.values()),
            "list": network.registry_cli("list").stdout,
        }
        assert network.kill("allocator", 9) == -9
        network.restart("allocator")
        assert get(network.url(well)).status_code == 200
        places["status, adopted"] = status(network)
    finally:
        daemons.stop_all()
        for service in network.services:
            for container in engine.containers.list(
                all=True, ignore_removed=True, filters={"label": f"myxo.service={service}"}
            ):
                container.remove(force=True)
    logs = {log.name: log.read_text() for log in daemons.folder.glob("*.log")}
    assert any("debug" in text for text in logs.values())
    found = [place for place, text in (places | logs).items() if SECRET in text]
    assert found == []
    assert well in places["labels"]
