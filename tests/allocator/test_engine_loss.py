"""The engine goes away and comes back: a relay in front of the real one is cut and mended."""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
import trio

from allocator.engine import client, session
from allocator.engine.client import why_unreachable
from allocator.engine.containers import Ownership, container_name
from allocator.engine.docker import DockerRuntime
from allocator.errors import RuntimeDown
from allocator.runtime import Launch
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

pytestmark = pytest.mark.docker

LONG_S = client.CALL_TIMEOUT_S
ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class Relay:
    """Passes connections on to the engine, until it is cut.

    Attributes:
        swallowed: parts of paths that the engine leaves unanswered, as one does that is locked up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.swallowed: tuple[bytes, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.gone = trio.Event()
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(64)
        async with trio.SocketListener(sock) as listener:
            with trio.CancelScope() as self.scope:
                task_status.started()
                await trio.serve_listeners(self._relay, [listener])
        self.path.unlink()
        self.gone.set()

    def cut(self) -> None:
        self.scope.cancel()

    async def _relay(self, client: trio.SocketStream) -> None:
        engine = await trio.open_unix_socket(ENGINE)
        async with client, engine, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, engine, client, lambda _: False)
            await _copy(client, engine, self._swallows)
            nursery.cancel_scope.cancel()

    def _swallows(self, asked: bytes | bytearray) -> bool:
        line = asked.partition(b"\r\n")[0]
        return any(part in line for part in self.swallowed)


async def _copy(
    source: trio.SocketStream,
    target: trio.SocketStream,
    swallows: Callable[[bytes | bytearray], bool],
) -> None:
    try:
        async for chunk in source:
            if not swallows(chunk):
                await target.send_all(chunk)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


@asynccontextmanager
async def behind(path: Path) -> AsyncIterator[tuple[DockerRuntime, trio.Nursery]]:
    runtime = DockerRuntime(Ownership(secrets.token_hex(4), PeerId("me")))
    async with trio.open_nursery() as nursery:
        await nursery.start(runtime.run)
        yield runtime, nursery
        nursery.cancel_scope.cancel()


async def until_usable(runtime: DockerRuntime, wanted: bool) -> None:
    while runtime.health().usable != wanted:
        await runtime.health_changed()


async def test_a_lost_engine_is_told_and_what_ended_meanwhile_is_found(
    engine: docker.APIClient, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("/tmp") / f"myxo-relay-{secrets.token_hex(6)}.sock"  # noqa: S108
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    relay = Relay(path)
    spec = ServiceSpec(image=image)
    launches = [
        Launch(InstanceId(secrets.token_hex(5)), ServiceName("x"), 1, PeerId("a"), spec, 4200)
        for _ in range(2)
    ]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            async with behind(path) as (runtime, _):
                assert runtime.health().usable
                for launch in launches:
                    await runtime.create(launch)
                    await runtime.start(launch.id)

                relay.cut()
                await until_usable(runtime, wanted=False)
                assert "Docker engine" in runtime.health().problem
                with pytest.raises(RuntimeDown):
                    await runtime.create(launches[0])
                name = container_name(launches[0].service, launches[0].id)
                await trio.to_thread.run_sync(lambda: engine.kill(name))

                relay = Relay(path)
                await nursery.start(relay.run)
                await until_usable(runtime, wanted=True)
                await runtime.exited(launches[0].id)
                assert (await runtime.post_mortem(launches[0].id)).exit_code == 137
                assert (await runtime.post_mortem(launches[1].id)).exit_code is None
                for launch in launches:
                    await runtime.remove(launch.id, grace_s=0)
            relay.cut()


async def test_an_engine_that_was_never_there_is_used_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path("/tmp") / f"myxo-relay-{secrets.token_hex(6)}.sock"  # noqa: S108
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    relay = Relay(path)
    with trio.fail_after(60):
        async with behind(path) as (runtime, nursery):
            assert not runtime.health().usable
            await nursery.start(relay.run)
            await until_usable(runtime, wanted=True)
            assert await runtime.adopt() == []
            relay.cut()


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> Relay:
    """In front of the engine that the environment names now."""
    path = Path("/tmp") / f"myxo-relay-{secrets.token_hex(6)}.sock"  # noqa: S108
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setattr(client, "CALL_TIMEOUT_S", LONG_S)  # so that it is that again
    return Relay(path)


async def reopen(
    relay: Relay, runtime: DockerRuntime, nursery: trio.Nursery, *, waits_s: int
) -> None:
    """Have a new conversation begin, in which each call is waited for so long.

    That is short only while something is left unanswered: a busy machine takes its time.
    """
    relay.cut()
    await relay.gone.wait()
    await until_usable(runtime, wanted=False)
    client.CALL_TIMEOUT_S = waits_s
    await nursery.start(relay.run)
    await until_usable(runtime, wanted=True)


async def test_an_engine_that_locked_up_before_it_is_used_holds_up_no_start(
    relayed: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FIRST_ANSWER_S", 0.2)
    relayed.swallowed = (b"/networks",)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(relayed.run)
            async with behind(relayed.path) as (runtime, _):
                assert "restart the engine" in runtime.health().problem
                with pytest.raises(RuntimeDown):
                    await runtime.adopt()
                relayed.swallowed = ()
                await reopen(relayed, runtime, nursery, waits_s=LONG_S)
                assert await runtime.adopt() == []
            relayed.cut()


async def test_an_engine_that_leaves_a_call_unanswered_is_down_until_it_answers(
    relayed: Relay, image: Image
) -> None:
    spec = ServiceSpec(image=image)
    launch = Launch(InstanceId(secrets.token_hex(5)), ServiceName("x"), 1, PeerId("a"), spec, 4200)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(relayed.run)
            async with behind(relayed.path) as (runtime, _):
                await runtime.create(launch)
                await reopen(relayed, runtime, nursery, waits_s=1)
                relayed.swallowed = (b"/start", b"/networks")
                with pytest.raises(RuntimeDown, match="unanswered"):
                    await runtime.start(launch.id)
                assert "restart the engine" in runtime.health().problem
                with trio.move_on_after(2.5) as later:  # more than one look again
                    await until_usable(runtime, wanted=True)
                assert later.cancelled_caught, "its networks are still locked up"
                relayed.swallowed = ()
                await reopen(relayed, runtime, nursery, waits_s=LONG_S)
                await runtime.start(launch.id)
                await runtime.remove(launch.id, grace_s=0)
            relayed.cut()


def test_a_user_outside_the_docker_group_is_told_the_command_that_helps() -> None:
    refusal = PermissionError(13, "Permission denied")
    assert "sudo usermod -aG docker $USER" in why_unreachable(refusal)
