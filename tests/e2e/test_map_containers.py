"""Maps on workers that are containers, of an image that is made here and pulled from nowhere."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 240.0
PROGRAM = Path(__file__).parent / "map_program.py"
NOBODY = 65534


def test_workers_run_in_containers_as_nobody_and_without_network(
    docker_network: Any, worker_image: str, engine: docker.DockerClient
) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, "inside"],
        env=docker_network.program_environment | {"MYXO_MAP_IMAGE": worker_image},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["squares"] == [x * x for x in range(50)]
    assert seen["user"] == NOBODY
    assert seen["writes"] == errno.EROFS
    workers = [
        container
        for container in engine.containers.list(filters={"label": "myxo.service"})
        if container.labels["myxo.service"].startswith("map-")
    ]
    assert workers
    for worker in workers:
        docker_network.services.append(worker.labels["myxo.service"])
        limits = worker.attrs["HostConfig"]
        assert limits["NanoCpus"] == 1_000_000_000
        assert limits["Memory"] == 1024 * 1024 * 1024
        assert limits["CapDrop"] == ["ALL"]
        assert json.loads(worker.labels["myxo.spec"])["network"] == "none"
    docker_network.no_traceback()
