"""With containers of a real engine, labelled as the allocator labels its own."""

import os
from collections.abc import Iterator

import docker
import pytest
from docker.models.containers import Container

from bench.lab.experiments.container_counters import ContainerCounters
from bench.lab.experiments.telemetry import Meter, Reading

BUSY = "while true; do :; done"


@pytest.fixture
def container(engine: docker.DockerClient, busybox_image: str) -> Iterator[Container]:
    """A container that computes, as an instance of a service called `busy`."""
    started = engine.containers.run(
        busybox_image,
        ["/bin/sh", "-c", BUSY],
        detach=True,
        labels={"myxo.instance": f"test-{os.getpid()}", "myxo.service": "busy"},
        nano_cpus=100_000_000,
    )
    yield started
    started.remove(force=True)


@pytest.mark.docker
def test_an_instances_container_is_read(container: Container) -> None:
    counters = ContainerCounters()
    readings: list[Reading] = []

    def read() -> Reading:
        readings.append(counters.read())
        return readings[-1]

    try:
        meter = Meter("h1", read)
        meter.sample(0.0)
        rows = {(row.metric, row.subsystem): row.value for row in meter.sample(1.0)}
    finally:
        counters.close()
    name = f"busy/test-{os.getpid()}"
    assert rows["container_memory_used_bytes", name] > 0
    assert rows["container_processes", name] >= 1
    assert rows["container_cpu_percent", name] >= 0
    assert readings[1].counters["container_cpu_percent", name] > 0


def test_without_an_engine_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert ContainerCounters().read() == Reading()
