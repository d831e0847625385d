"""What every runtime must do, asked of each: in memory, processes, and a real Docker engine."""

import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.engine.sandbox_pool import SandboxPlan
from allocator.errors import LaunchFailed, Unmeasured, Unpausable
from allocator.instances.readiness import Outcome, wait_ready
from allocator.processes.runtime import ProcessRuntime
from allocator.runtime import Launch, Runtime
from allocator.testing import FakeRuntime, open_fake_machine
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

SERVER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "".join(f"{k}={v}\\n" for k, v in os.environ.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Answer).serve_forever()
"""


@dataclass
class Lab:
    """One kind of runtime: how to make it, and specs that make it do things."""

    make: Callable[[str], Runtime]
    serving: ServiceSpec
    hanging: ServiceSpec
    exiting: ServiceSpec  # with code 3, after it has written "out of cheese"

    @asynccontextmanager
    async def open(self, owner: str = "me") -> AsyncIterator[Runtime]:
        runtime = self.make(owner)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            if isinstance(runtime, DockerRuntime):
                await runtime.sandboxes.stocked()
            yield runtime
            nursery.cancel_scope.cancel()

    async def sweep(self, *owners: str) -> None:
        for owner in owners:
            async with self.open(owner) as runtime:
                for running in await runtime.adopt():
                    await runtime.remove(running.id, grace_s=0)


def launch(spec: ServiceSpec) -> Launch:
    return Launch(
        id=InstanceId(secrets.token_hex(5)),
        service=ServiceName("hello:1"),
        revision=7,
        author=PeerId("someone"),
        spec=spec,
        proxy_port=4200,
    )


DOCKER = [pytest.param(name, marks=pytest.mark.docker) for name in ("docker", "docker-sandboxed")]


@pytest.fixture(params=["fake", "process", *DOCKER])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    match request.param:
        case "fake":
            async with open_fake_machine() as machine:
                yield Lab(lambda owner: FakeRuntime(machine, owner), *_fake_specs())
        case "process":
            lab = Lab(lambda owner: ProcessRuntime(tmp_path / owner), *_process_specs(tmp_path))
            yield lab
            await lab.sweep("me", "other")
        case _:
            network = secrets.token_hex(4)
            image: Image = request.getfixturevalue("image")

            def make(owner: str) -> DockerRuntime:
                plan = None
                if request.param == "docker-sandboxed":
                    program = request.getfixturevalue("sandbox_program")
                    plan = SandboxPlan(1, tmp_path / owner / "s", program=program)
                return DockerRuntime(Ownership(network, PeerId(owner)), plan)

            lab = Lab(make, *_docker_specs(image))
            yield lab
            await lab.sweep("me", "other")


def _fake_specs() -> tuple[ServiceSpec, ServiceSpec, ServiceSpec]:
    return (
        ServiceSpec(env={"COLOUR": "blue green"}),
        ServiceSpec(command="hang"),
        ServiceSpec(command="exit 3 out of cheese"),
    )


def _process_specs(directory: Path) -> tuple[ServiceSpec, ServiceSpec, ServiceSpec]:
    script = directory / "server.py"
    script.write_text(SERVER)
    return (
        ServiceSpec(process=f"exec {sys.executable} {script}", env={"COLOUR": "blue green"}),
        ServiceSpec(process="exec sleep 1000"),
        ServiceSpec(process="echo out of cheese; exit 3"),
    )


def _docker_specs(image: Image) -> tuple[ServiceSpec, ServiceSpec, ServiceSpec]:
    return (
        ServiceSpec(image=image, env={"COLOUR": "blue green"}),
        ServiceSpec(image=image, command="exec busybox sleep 1000"),
        ServiceSpec(image=image, command="echo out of cheese; exit 3"),
    )


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    with trio.fail_after(seconds):
        yield


async def start_serving(runtime: Runtime, spec: ServiceSpec) -> tuple[Launch, str]:
    wanted = launch(spec)
    await runtime.create(wanted)
    address = await runtime.start(wanted.id)
    outcome = await wait_ready(address, None, 30, lambda: runtime.exited(wanted.id))
    assert outcome is Outcome.READY, await runtime.post_mortem(wanted.id)
    return wanted, address


async def environment_at(address: str) -> dict[str, str]:
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"GET /env HTTP/1.0\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream])
    lines = answer.decode().split("\r\n\r\n", 1)[1].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


async def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with trio.move_on_after(0.5):
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            return False
        await stream.aclose()
        return True
    return False


async def test_a_started_instance_serves_and_is_told_where_to_listen_and_to_ask(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        _, address = await start_serving(runtime, lab.serving)
        seen = await environment_at(address)
    assert seen["COLOUR"] == "blue green"
    assert seen["SERVICE_PORT"] == seen["PORT"] == address.rpartition(":")[2]
    assert seen["PROXY_PORT"] == "4200"
    assert seen["PROXY_IP"].count(".") == 3


async def test_an_end_is_noticed_with_its_code_and_the_end_of_the_log(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted = launch(lab.exiting)
        await runtime.create(wanted)
        await runtime.start(wanted.id)
        await runtime.exited(wanted.id)
        end = await runtime.post_mortem(wanted.id)
    assert end.exit_code == 3
    assert end.log == "out of cheese"
    assert str(end) == "it ended with exit code 3"


async def test_an_instance_that_never_listens_is_given_up_in_time(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted = launch(lab.hanging)
        await runtime.create(wanted)
        address = await runtime.start(wanted.id)
        outcome = await wait_ready(address, None, 0.4, lambda: runtime.exited(wanted.id))
        assert outcome is Outcome.TIMED_OUT
        assert (await runtime.post_mortem(wanted.id)).exit_code is None


async def test_a_removed_instance_is_gone_and_removing_it_again_does_nothing(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, address = await start_serving(runtime, lab.serving)
        await runtime.remove(wanted.id, grace_s=1)
        await runtime.exited(wanted.id)
        assert not await accepts(address)
        await runtime.remove(wanted.id, grace_s=1)
        assert await runtime.adopt() == []


async def test_removing_wakes_whoever_waits_for_the_end(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, _ = await start_serving(runtime, lab.serving)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.exited, wanted.id)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await runtime.remove(wanted.id, grace_s=0)


async def test_what_was_not_created_cannot_be_started(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        with pytest.raises(LaunchFailed):
            await runtime.start(InstanceId("nothing"))


async def test_a_created_instance_that_was_never_started_can_be_removed(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted = launch(lab.serving)
        await runtime.create(wanted)
        await runtime.remove(wanted.id, grace_s=1)
        assert await runtime.adopt() == []


async def test_instances_outlive_their_allocator_and_are_adopted_by_the_next(lab: Lab) -> None:
    async with within(60):
        async with lab.open() as first:
            wanted, address = await start_serving(first, lab.serving)
        async with lab.open() as second:
            (found,) = await second.adopt()
            assert (found.id, found.service, found.revision) == (wanted.id, "hello:1", 7)
            assert found.address == address
            assert found.author == wanted.author
            assert found.spec.port == lab.serving.port
            assert await accepts(address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.exited, wanted.id)
                await second.remove(wanted.id, grace_s=1)
            assert not await accepts(address)


async def test_what_was_left_unstarted_is_removed_by_the_next_allocator(lab: Lab) -> None:
    async with within(60):
        async with lab.open() as first:
            await first.create(launch(lab.serving))
        async with lab.open() as second:
            assert await second.adopt() == []
        async with lab.open() as third:
            assert await third.adopt() == []


async def test_another_owners_instances_are_not_touched(lab: Lab) -> None:
    async with within(60), lab.open("other") as other:
        _, address = await start_serving(other, lab.serving)
        async with lab.open("me") as mine:
            assert await mine.adopt() == []
        assert await accepts(address)


async def test_a_usable_runtime_knows_its_machine(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        assert runtime.health().usable
        capacity = runtime.capacity()
    assert capacity.cpu_millicores >= 1000
    assert capacity.memory_mib >= 512
    assert capacity.platform.startswith("linux/")


async def answers(address: str) -> bool:
    with trio.move_on_after(0.3):
        return bool(await environment_at(address))
    return False


async def test_a_paused_instance_accepts_and_answers_only_when_it_is_resumed(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, address = await start_serving(runtime, lab.serving)
        assert await environment_at(address)
        await runtime.pause(wanted.id)
        assert await accepts(address)
        assert not await answers(address)
        await runtime.resume(wanted.id)
        assert (await environment_at(address))["COLOUR"] == "blue green"


async def test_pausing_and_resuming_twice_does_nothing_more(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, address = await start_serving(runtime, lab.serving)
        await runtime.resume(wanted.id)
        for _ in range(2):
            await runtime.pause(wanted.id)
        for _ in range(2):
            await runtime.resume(wanted.id)
        assert await environment_at(address)


async def test_a_connection_that_waits_at_a_paused_instance_is_answered_after_it(lab: Lab) -> None:
    got: list[dict[str, str]] = []
    async with within(60), lab.open() as runtime:
        wanted, address = await start_serving(runtime, lab.serving)
        await runtime.pause(wanted.id)

        async def ask() -> None:
            got.append(await environment_at(address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not got
            await runtime.resume(wanted.id)
    assert got[0]["COLOUR"] == "blue green"


async def test_a_paused_instance_is_removed_like_any_other(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, address = await start_serving(runtime, lab.serving)
        await runtime.pause(wanted.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.exited, wanted.id)
            await runtime.remove(wanted.id, grace_s=2)
        assert not await accepts(address)
        assert await runtime.adopt() == []


async def test_what_runs_has_a_measured_memory_paused_or_not(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted, _ = await start_serving(runtime, lab.serving)
        running = await runtime.memory_mib(wanted.id)
        await runtime.pause(wanted.id)
        paused = await runtime.memory_mib(wanted.id)
        assert 1 <= running < 100
        assert 1 <= paused < 100
        await runtime.remove(wanted.id, grace_s=0)
        with pytest.raises(Unmeasured):
            await runtime.memory_mib(wanted.id)


async def test_what_is_not_there_is_neither_paused_nor_resumed(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        with pytest.raises(Unpausable):
            await runtime.pause(InstanceId("nothing"))
        with pytest.raises(LaunchFailed):
            await runtime.resume(InstanceId("nothing"))


async def test_what_has_ended_is_neither_paused_nor_resumed(lab: Lab) -> None:
    async with within(60), lab.open() as runtime:
        wanted = launch(lab.exiting)
        await runtime.create(wanted)
        await runtime.start(wanted.id)
        await runtime.exited(wanted.id)
        with pytest.raises(Unpausable):
            await runtime.pause(wanted.id)
        with pytest.raises(LaunchFailed):
            await runtime.resume(wanted.id)


async def test_paused_instances_outlive_their_allocator_and_are_adopted_as_paused(lab: Lab) -> None:
    async with within(60):
        async with lab.open() as first:
            paused, address = await start_serving(first, lab.serving)
            running, _ = await start_serving(first, lab.serving)
            await first.pause(paused.id)
        async with lab.open() as second:
            found = {f.id: f.paused for f in await second.adopt()}
            assert found == {paused.id: True, running.id: False}
            assert not await answers(address)
            await second.resume(paused.id)
            assert await environment_at(address)
