"""A real engine is stopped, or killed, under ready and paused instances, and comes back."""

import gc
import secrets
import signal
import subprocess
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.instances.instances import Instances
from allocator.instances.readiness import Outcome
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.testing import BUSY_STOP_S, FakePublisher
from allocator.testing_instances import OWNER, id_of
from bench.netlab.engine import Engine
from bench.netlab.hosts import Host
from bench.netlab.testing import labs
from overlay.names import PeerId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec
from tests.template import start_inside

pytestmark = [
    *(pytest.mark.docker, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)),
    # The SDK leaves the socket open that it could not connect to an engine that is gone.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


async def ready_at_once(*_: object) -> Outcome:
    """The host's containers cannot be dialled from here; that is not what is tested."""
    await trio.lowlevel.checkpoint()
    return Outcome.READY


@dataclass
class Machine:
    """An allocator's instances on an engine of their own."""

    host: Host
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    ownership: Ownership = field(
        default_factory=lambda: Ownership(secrets.token_hex(4), PeerId("me"))
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Instances, DockerRuntime]]:
        runtime = DockerRuntime(self.ownership)
        instances = Instances(
            {"docker": runtime},
            Ledger(Limits(4000, 4096, 10)),
            Policy(open_network=False, allow_any=False, allowed=frozenset),
            self.publisher,
            AllocatorMetrics(self.registry),
            ready=ready_at_once,
        )
        async with trio.open_nursery() as outer:
            await outer.start(runtime.run)
            async with trio.open_nursery() as inner:
                await inner.start(instances.run)
                yield instances, runtime
                inner.cancel_scope.cancel()
            outer.cancel_scope.cancel()

    def stop_engine(self, number: signal.Signals) -> None:
        """End the engine, and wait for its containerd, which ends a moment after it."""
        self.host.run(["sh", "-c", f"kill -{number.value} $(cat {self._folder}/docker.pid)"])
        containerd = f"{self._folder}/exec/containerd/containerd.pid"
        gone = f"p=$(cat {containerd}) || exit 0; while [ -d /proc/$p ]; do sleep 0.1; done"
        self.host.run(["sh", "-c", f"{gone}; rm -f {containerd}"])

    def start_engine(self) -> None:
        """Start it as it was started first, with what it left in place."""
        folder = self._folder
        self.host.popen(
            [
                *("dockerd", "--host", self.host.environment["DOCKER_HOST"]),
                *("--cgroup-parent", f"/{Engine(folder).cgroup}", "--data-root", f"{folder}/data"),
                *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def _folder(self) -> Path:
        return self.host.folder / "engine"

    def containers(self) -> list[str]:
        with closing(docker.APIClient(base_url=self.host.environment["DOCKER_HOST"])) as client:
            rows = client.containers(all=True, filters={"label": self.ownership.filters()})
        return [row["State"] for row in rows]


@pytest.fixture
def machine(
    engine: docker.APIClient, image: Image, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    with labs(start_inside) as lab:
        (host,) = lab(hosts=[{"name": "a", "engine": True}]).hosts
        url = host.environment["DOCKER_HOST"]
        with closing(docker.APIClient(base_url=url, version="auto")) as client:
            for _ in client.load_image(engine.get_image(image.reference)):
                pass
        monkeypatch.setenv("DOCKER_HOST", url)
        yield Machine(host)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def given(name: str, image: Image, idle_pause_s: float) -> SignedRevision:
    spec = ServiceSpec(image=image, idle_pause_s=idle_pause_s)
    return SignedRevision.sign(OWNER, Revision(name=ServiceName(name), number=1, spec=spec))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.02)


def states(instances: Instances) -> list[str]:
    return sorted(i["state"] for i in instances.status()["own_instances"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_engines_end_is_no_crash_of_its_instances_and_it_is_used_again_when_it_is_back(
    number: signal.Signals, machine: Machine, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.instances.life.STOP_TOTAL_S", BUSY_STOP_S)
    with trio.fail_after(150):
        async with machine.open() as (instances, runtime):
            ready = id_of(await instances.allocate(given("ready", image, 0)))
            await instances.allocate(given("rests", image, 0.1))
            await until(lambda: states(instances) == ["paused", "ready"])

            await trio.to_thread.run_sync(machine.stop_engine, number)
            await until(lambda: not runtime.health().usable)
            await trio.to_thread.run_sync(machine.start_engine)
            await until(lambda: runtime.health().usable)
            await until(lambda: states(instances) == [])
            assert instances.status()["crash_loops"] == []
            value = machine.registry.get_sample_value
            assert value("myxo_allocator_crashes_total") == 0

            assert id_of(await instances.allocate(given("ready", image, 0))) != ready
            await instances.allocate(given("rests", image, 0))
            await until(lambda: machine.containers() == ["running", "running"])
        assert machine.containers() == []
