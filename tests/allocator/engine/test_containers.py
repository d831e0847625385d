"""What a container is allowed, as the engine itself says."""

import io
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import docker
import pytest
import trio

from allocator.engine.client import close_stream
from allocator.engine.containers import KEPT_BY, Ownership, container_name, unenforced_of
from allocator.engine.docker import DockerRuntime
from allocator.engine.networks import BRIDGE
from allocator.errors import ImageMissing, LaunchFailed, RuntimeDown
from allocator.instances.readiness import Outcome, Question, wait_ready
from allocator.runtime import Launch
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime() -> AsyncIterator[DockerRuntime]:
    found = DockerRuntime(Ownership(secrets.token_hex(4), PeerId("me")))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        with trio.fail_after(60):
            yield found
            for instance in list(found._containers):
                await found.remove(instance, grace_s=0)
        nursery.cancel_scope.cancel()


def launch_of(spec: ServiceSpec) -> Launch:
    instance = InstanceId(secrets.token_hex(5))
    return Launch(instance, ServiceName("he:llo"), 1, PeerId("someone"), spec, 4200)


async def created(runtime: DockerRuntime, spec: ServiceSpec) -> Launch:
    launch = launch_of(spec)
    await runtime.create(launch)
    return launch


def inspect(engine: docker.APIClient, launch: Launch) -> dict[str, Any]:
    found: dict[str, Any] = engine.inspect_container(container_name(launch.service, launch.id))
    return found


async def test_a_container_is_safe_by_default(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    launch = await created(runtime, ServiceSpec(image=image, env={"SECRET": "hush"}))
    found = inspect(engine, launch)
    host = found["HostConfig"]
    assert found["Name"] == f"/myxo-he-llo-{launch.id}"
    assert host["NetworkMode"] == BRIDGE
    assert not host["PortBindings"]
    assert not host["PublishAllPorts"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert set(host["CapDrop"]) == {"NET_RAW", "MKNOD", "AUDIT_WRITE", "SETFCAP"}
    assert host["PidsLimit"] == 4096
    assert host["LogConfig"]["Config"] == {"max-size": "8m", "max-file": "2"}
    assert "hush" not in json.dumps(found["Config"]["Labels"])


async def test_a_spec_may_ask_for_more_safety_and_for_limits(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    spec = ServiceSpec(
        image=image, cpu_millicores=250, memory_mib=32, read_only=True, cap_drop_all=True
    )
    host = inspect(engine, await created(runtime, spec))["HostConfig"]
    assert host["NanoCpus"] == 250_000_000
    assert host["Memory"] == host["MemorySwap"] == 32 * 1024 * 1024
    assert host["ReadonlyRootfs"]
    assert list(host["Tmpfs"]) == ["/tmp"]  # noqa: S108
    assert host["CapDrop"] == ["ALL"]


async def test_a_read_only_container_serves_from_its_own_tmp(
    runtime: DockerRuntime, image: Image
) -> None:
    launch = await created(runtime, ServiceSpec(image=image, read_only=True, cap_drop_all=True))
    address = await runtime.start(launch.id)
    outcome = await wait_ready(address, Question("/env"), 10, lambda: runtime.exited(launch.id))
    assert outcome is Outcome.READY


async def test_the_command_replaces_the_images_and_is_run_by_a_shell(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    spec = ServiceSpec(image=image, port=9000, command="echo port $SERVICE_PORT; exit 0")
    launch = await created(runtime, spec)
    await runtime.start(launch.id)
    await runtime.exited(launch.id)
    assert (await runtime.post_mortem(launch.id)).log == "port 9000"
    assert inspect(engine, launch)["Config"]["Entrypoint"] == ["/bin/sh", "-c"]


async def test_memory_over_the_limit_ends_the_container_and_is_said(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    """The engine hears of the kernel's deed some time after it, and of none before it watches."""
    hog = "busybox dd if=/dev/zero of=/dev/null bs=200M count=1"
    waits = f"trap '{hog}' USR1; echo up; while :; do busybox sleep 0.1; done"
    launch = await created(runtime, ServiceSpec(image=image, memory_mib=16, command=waits))
    await runtime.start(launch.id)
    name = container_name(launch.service, launch.id)
    log = engine.logs(name, stream=True)
    assert await trio.to_thread.run_sync(next, log) == b"up\n"
    close_stream(log)
    told = engine.events(decode=True, filters={"event": "oom", "container": name})
    engine.kill(name, signal="SIGUSR1")
    with trio.fail_after(30):
        await trio.to_thread.run_sync(next, told)
    close_stream(told)
    engine.kill(name)
    await runtime.exited(launch.id)
    end = await runtime.post_mortem(launch.id)
    assert end.oom_killed
    assert "more memory" in str(end)


async def test_a_container_is_asked_to_end_by_the_signal_that_its_image_names(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    tag = "myxo-test-stop-signal:1"
    lines = f"FROM {image.reference}\nSTOPSIGNAL SIGUSR1\n".encode()
    list(engine.build(fileobj=io.BytesIO(lines), tag=tag, rm=True))
    digest = Digest(engine.inspect_image(tag)["Id"])
    waits = "trap 'exit 7' USR1; trap 'exit 8' TERM; echo up; while :; do busybox sleep 0.1; done"
    spec = ServiceSpec(image=Image(reference=tag, config_digest=digest), command=waits)
    for frozen in (False, True):
        launch = await created(runtime, spec)
        await runtime.start(launch.id)
        name = container_name(launch.service, launch.id)
        began = int(time.time())
        log = engine.logs(name, stream=True)
        assert await trio.to_thread.run_sync(next, log) == b"up\n"
        close_stream(log)
        if frozen:
            await runtime.pause(launch.id)
        await runtime.remove(launch.id, grace_s=30)
        ends = {"container": name, "event": "die"}
        (end,) = engine.events(since=began, until=int(time.time()) + 1, filters=ends, decode=True)
        assert end["Actor"]["Attributes"]["exitCode"] == "7"


async def test_an_engine_says_which_limits_its_kernel_does_not_keep(
    runtime: DockerRuntime, engine: docker.APIClient
) -> None:
    about = engine.info()
    assert runtime.health().unenforced == unenforced_of(about)
    assert unenforced_of(about | dict.fromkeys(KEPT_BY, True)) == ()
    for key, named in KEPT_BY.items():
        (said,) = unenforced_of(about | dict.fromkeys(KEPT_BY, True) | {key: False})
        assert named in said


async def test_traffic_between_containers_is_off(
    runtime: DockerRuntime, engine: docker.APIClient
) -> None:
    assert runtime.health().usable
    network = engine.inspect_network(BRIDGE)
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert network["Options"]["com.docker.network.bridge.name"] == BRIDGE
    assert runtime.bridges[BRIDGE] == network["IPAM"]["Config"][0]["Gateway"]


async def test_an_image_that_is_nowhere_is_missing_with_a_reason(runtime: DockerRuntime) -> None:
    nowhere = Image(reference="alice/hello:1", config_digest=Digest("sha256:" + "1" * 64))
    with pytest.raises(ImageMissing, match="No such image"):
        await created(runtime, ServiceSpec(image=nowhere))
    with pytest.raises(ImageMissing, match="pushed to no registry"):
        await runtime.pull(launch_of(ServiceSpec(image=nowhere)))
    unreachable = nowhere.model_copy(
        update={"repo_digest": "127.0.0.1:1/alice/hello@sha256:" + "2" * 64}
    )
    with pytest.raises(ImageMissing, match="cannot be pulled"):
        await runtime.pull(launch_of(ServiceSpec(image=unreachable)))


async def test_a_command_that_does_not_exist_is_told_in_the_engines_words(
    runtime: DockerRuntime, engine: docker.APIClient, image: Image
) -> None:
    bare = engine.import_image_from_data(b"", repository="myxo-test-empty", tag="1")
    digest = json.loads(bare)["status"]
    empty = Image(reference="empty", config_digest=Digest(digest))
    with pytest.raises(LaunchFailed, match=r"[Nn]o command"):
        await created(runtime, ServiceSpec(image=empty))
    launch = await created(runtime, ServiceSpec(image=empty, command="true"))
    with pytest.raises(LaunchFailed, match="/bin/sh"):
        await runtime.start(launch.id)
    assert image.config_digest != digest


async def test_no_engine_is_a_runtime_that_is_down_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    runtime = DockerRuntime(Ownership("x", PeerId("me")))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await nursery.start(runtime.run)
            assert "DOCKER_HOST" in runtime.health().problem
            with pytest.raises(RuntimeDown):
                await runtime.adopt()
        nursery.cancel_scope.cancel()
