"""Instances in network sandboxes, on a real engine."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import trio
from docker.errors import NotFound

from allocator.engine.containers import Ownership, container_name, joining
from allocator.engine.docker import DockerRuntime
from allocator.engine.sandbox_pool import SandboxPlan
from allocator.instances.readiness import Outcome, Question, wait_ready
from allocator.runtime import Launch
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

pytestmark = pytest.mark.docker

PROXY_PORT = 4711


@dataclass
class Lab:
    """One allocator's runtimes, one after the other, and the engine behind them."""

    engine: docker.APIClient
    plan: SandboxPlan
    spec: ServiceSpec
    ownership: Ownership

    @asynccontextmanager
    async def open(self, plan: SandboxPlan | None = None) -> AsyncIterator[DockerRuntime]:
        runtime = DockerRuntime(self.ownership, plan or self.plan)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            with trio.fail_after(60):
                yield runtime
            nursery.cancel_scope.cancel()

    def launch(self, **fields: Any) -> Launch:
        spec = self.spec.model_copy(update=fields)
        instance = InstanceId(secrets.token_hex(5))
        return Launch(instance, ServiceName("web"), 1, PeerId("x"), spec, PROXY_PORT)

    async def serve(self, runtime: DockerRuntime, **fields: Any) -> tuple[Launch, dict[str, Any]]:
        """Start an instance that answers; return the engine's word on its sandbox."""
        launch = self.launch(**fields)
        await runtime.create(launch)
        address = await runtime.start(launch.id)
        outcome = await wait_ready(address, Question("/env"), 20, lambda: runtime.exited(launch.id))
        assert outcome is Outcome.READY
        mode = self.inspect(launch)["HostConfig"]["NetworkMode"]
        return launch, self.engine.inspect_container(mode.removeprefix("container:"))

    def inspect(self, launch: Launch) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.inspect_container(
            container_name(launch.service, launch.id)
        )
        return found

    def left(self) -> list[str]:
        """Return the names of this allocator's containers."""
        rows = self.engine.containers(all=True, filters={"label": self.ownership.filters()})
        return [row["Names"][0] for row in rows]

    def inside(self, launch: Launch, command: str) -> str:
        """Run a command in an instance; return what it prints."""
        name = container_name(launch.service, launch.id)
        made = self.engine.exec_create(name, ["/bin/busybox", "sh", "-c", command])
        printed: bytes = self.engine.exec_start(made)
        return printed.decode()


@pytest.fixture
async def lab(
    engine: docker.APIClient, image: Image, sandbox_program: Path, tmp_path: Path
) -> AsyncIterator[Lab]:
    plan = SandboxPlan(2, tmp_path / "a" / "b", PROXY_PORT, sandbox_program)
    ownership = Ownership(secrets.token_hex(4), PeerId("me"))
    found = Lab(engine, plan, ServiceSpec(image=image), ownership)
    yield found
    for name in found.left():
        engine.remove_container(name, force=True, v=True)


async def test_an_instance_is_in_a_sandbox_of_its_own_that_may_do_nothing(lab: Lab) -> None:
    async with lab.open() as runtime:
        await runtime.sandboxes.stocked()
        first, its_sandbox = await lab.serve(runtime)
        second, another = await lab.serve(runtime)
        assert its_sandbox["Id"] != another["Id"]
        assert its_sandbox["Name"].startswith("/myxo-sandbox-")
        name = its_sandbox["Config"]["Labels"]["myxo.sandbox"]
        assert runtime.occupant(name) == ("web", first.id)
        host = its_sandbox["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["ReadonlyRootfs"]
        assert not host["Privileged"]
        assert (host["Memory"], host["PidsLimit"]) == (6 * 1024 * 1024, 16)
        assert its_sandbox["Config"]["User"] == "65534:65534"
        assert [mount["RW"] for mount in its_sandbox["Mounts"]] == [False]
        assert lab.inspect(second)["Mounts"] == []
        assert lab.inside(first, "hostname").strip() == its_sandbox["Config"]["Hostname"]
        await runtime.remove(first.id, grace_s=0)
        await runtime.remove(second.id, grace_s=0)
        for sandbox in (its_sandbox, another):
            with pytest.raises(NotFound):
                lab.engine.inspect_container(sandbox["Id"])


async def test_the_end_of_the_sandbox_is_the_end_of_the_instance(lab: Lab) -> None:
    async with lab.open() as runtime:
        launch, sandbox = await lab.serve(runtime)
        lab.engine.kill(sandbox["Id"])
        await runtime.exited(launch.id)
        await runtime.remove(launch.id, grace_s=0)
        await runtime.sandboxes.stocked()
        assert len(lab.left()) == lab.plan.size


async def test_an_unused_sandbox_that_ends_is_replaced(lab: Lab) -> None:
    async with lab.open() as runtime:
        await runtime.sandboxes.stocked()
        (name, _) = before = lab.left()
        lab.engine.kill(name.removeprefix("/"))
        while name in lab.left():
            await trio.lowlevel.checkpoint()
        await runtime.sandboxes.stocked()
        assert len(set(lab.left()) - set(before)) == 1


async def test_an_instance_whose_sandbox_died_before_its_start_starts_without(lab: Lab) -> None:
    async with lab.open() as runtime:
        launch = lab.launch()
        await runtime.create(launch)
        sandbox = lab.inspect(launch)["HostConfig"]["NetworkMode"].removeprefix("container:")
        lab.engine.remove_container(sandbox, force=True)
        address = await runtime.start(launch.id)
        outcome = await wait_ready(address, None, 20, lambda: runtime.exited(launch.id))
        assert outcome is Outcome.READY
        assert lab.inspect(launch)["HostConfig"]["NetworkMode"] == "myxo0"
        await runtime.remove(launch.id, grace_s=0)


async def test_a_killed_allocators_successor_pairs_what_it_finds_and_removes_the_rest(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = DockerRuntime(Ownership(lab.ownership.network, PeerId("other")), lab.plan)
    with monkeypatch.context() as killed:
        killed.setattr("allocator.engine.sandbox_pool.STOP_S", 0)  # nothing is tidied up
        async with lab.open() as first:
            await first.sandboxes.stocked()
            served, sandbox = await lab.serve(first)
            unstarted = lab.launch()
            await first.create(unstarted)
            await first.sandboxes.stocked()
    async with trio.open_nursery() as nursery:
        await nursery.start(stranger.run)
        await stranger.sandboxes.stocked()
        async with lab.open(SandboxPlan()) as second:
            (running,) = await second.adopt()
            assert running.id == served.id
            address = sandbox["NetworkSettings"]["Networks"]["myxo0"]["IPAddress"]
            assert running.address == f"{address}:8080"
            name = container_name(served.service, served.id)
            assert sorted(lab.left()) == sorted([f"/{name}", sandbox["Name"]])
            assert stranger.sandboxes.status()["ready"] == lab.plan.size
            await second.remove(served.id, grace_s=0)
            assert lab.left() == []
        nursery.cancel_scope.cancel()


async def test_what_waits_unused_goes_with_its_allocator(lab: Lab) -> None:
    async with lab.open() as runtime:
        await runtime.sandboxes.stocked()
        assert len(lab.left()) == lab.plan.size
    assert lab.left() == []


async def test_where_the_directory_cannot_be_shared_sandboxes_are_used_and_it_is_said(
    lab: Lab, sandbox_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.engine.sandbox_pool._open_to_sandboxes", lambda _: None)
    plan = SandboxPlan(1, Path("/nowhere/at/all"), PROXY_PORT, sandbox_program)
    async with lab.open(plan) as runtime:
        launch, sandbox = await lab.serve(runtime)
        assert lab.inspect(launch)["HostConfig"]["NetworkMode"] == joining(sandbox["Id"])
        assert "cannot share /nowhere" in runtime.sandboxes.status()["problem"]
        await runtime.remove(launch.id, grace_s=0)


async def test_without_the_program_instances_start_as_they_did_and_it_is_said(
    lab: Lab, tmp_path: Path
) -> None:
    plan = SandboxPlan(1, None, PROXY_PORT, tmp_path / "missing")
    async with lab.open(plan) as runtime:
        launch = lab.launch()
        await runtime.create(launch)
        assert lab.inspect(launch)["HostConfig"]["NetworkMode"] == "myxo0"
        assert "C compiler" in runtime.sandboxes.status()["problem"]
        await runtime.remove(launch.id, grace_s=0)


async def test_no_network_is_a_bridge_that_leads_nowhere_else(lab: Lab) -> None:
    async with lab.open() as runtime:
        launch, sandbox = await lab.serve(runtime, network="none")
        assert list(sandbox["NetworkSettings"]["Networks"]) == ["myxo1"]
        network = lab.engine.inspect_network("myxo1")
        assert network["Internal"]
        assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
        await runtime.remove(launch.id, grace_s=0)


async def test_who_listens_on_the_proxys_port_has_a_network_of_its_own(lab: Lab) -> None:
    async with lab.open() as runtime:
        launch = lab.launch(port=PROXY_PORT)
        await runtime.create(launch)
        assert lab.inspect(launch)["HostConfig"]["NetworkMode"] == "myxo0"
        await runtime.remove(launch.id, grace_s=0)


async def test_a_missing_image_leaves_the_sandbox_to_the_next(lab: Lab) -> None:
    async with lab.open() as runtime:
        await runtime.sandboxes.stocked()
        before = set(lab.left())
        nowhere = Image(reference="x", config_digest="sha256:" + "1" * 64)
        with pytest.raises(Exception, match="not on this machine"):
            await runtime.create(lab.launch(image=nowhere))
        launch, sandbox = await lab.serve(runtime)
        assert sandbox["Name"] in before
        await runtime.remove(launch.id, grace_s=0)
