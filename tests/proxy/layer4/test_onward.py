"""What a gateway asks of its machine's proxy, over a real control socket."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from overlay.control import serve_control
from overlay.identity import Identity
from overlay.names import InstanceId, ServiceName
from overlay.onward import WANT, Onward, open_onward
from overlay.spec import ServiceSpec
from overlay.tunnel import OnwardRefused, Relayed, Why
from proxy.layer4.onward import OnwardDesk

GroundOf = Callable[[], AbstractAsyncContextManager[Any]]

NEAR = Identity.from_seed(bytes([2]) * 32)
ORDER = Onward(to="udp/echo", caller=ServiceName("talk"), instance=InstanceId("i1"))
UDP = ServiceSpec(process="serve", protocol="udp", hard_rtt_ms=500)
TALK = ServiceSpec(process="serve", protocol="tcp", hard_rtt_ms=20)


@asynccontextmanager
async def served(ground: Any, path: Path) -> AsyncIterator[list[tuple[str, Relayed | None]]]:
    """Serve the desk's want at `path`; yield what it says of the ends of chains."""
    ends: list[tuple[str, Relayed | None]] = []

    def ended(service: str, relayed: Relayed | None) -> None:
        ends.append((service, relayed))

    with trio.fail_after(20):
        desk = OnwardDesk(ground.tunnels, ended, ground.nursery)
        await ground.nursery.start(serve_control, path, dict, {WANT: desk.serve})
        yield ends


async def test_a_chain_goes_on_and_datagrams_keep_their_bounds(
    ground_of: GroundOf, tmp_path: Path
) -> None:
    async with ground_of() as ground, served(ground, tmp_path / "s") as ends:
        ground.define("echo", UDP)
        ground.define("talk", TALK)
        ground.run("echo", NEAR)
        async with open_onward(tmp_path / "s", ORDER) as end:
            (asked,) = ground.asked
            assert asked.target.startswith("/tunnel/udp/echo-")
            for said in (b"one", b"", b"two"):
                await end.send(said)
                assert await asked.end.receive() == said
                await asked.end.send(said)
                assert await end.receive() == said
            await end.finish()
            await asked.end.finish()
            assert await end.receive() is None
        while not ends:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert ends == [("echo", Relayed(Why.ENDED, 6, 6))]


async def test_a_chain_outlives_the_control_socket_which_need_not_wait_for_it(
    ground_of: GroundOf, tmp_path: Path
) -> None:
    async with ground_of() as ground:
        ground.define("echo", UDP)
        ground.define("talk", TALK)
        ground.run("echo", NEAR)
        path, desk = tmp_path / "s", OnwardDesk(ground.tunnels, lambda *_: None, ground.nursery)
        with trio.fail_after(60):
            async with trio.open_nursery() as socket:
                await socket.start(serve_control, path, dict, {WANT: desk.serve})
                opening = open_onward(path, ORDER)
                end = await opening.__aenter__()
                socket.cancel_scope.cancel()
            await ground.asked[0].end.send(b"still")
            assert await end.receive() == b"still"
            await opening.__aexit__(None, None, None)


async def test_the_callers_limits_hold_for_what_follows_it(
    ground_of: GroundOf, tmp_path: Path
) -> None:
    async with ground_of() as ground, served(ground, tmp_path / "s"):
        ground.define("echo", UDP)
        ground.define("talk", TALK)
        ground.run("echo", NEAR, rtt_s=0.1)
        with pytest.raises(OnwardRefused, match="echo runs nowhere"):
            async with open_onward(tmp_path / "s", ORDER):
                pytest.fail("it is too far away for talk")
        assert ground.asked == []


@pytest.mark.parametrize("to", ["udp/none-such", "udp", "echo/echo", "/".join(["udp", *"a" * 17])])
async def test_what_leads_nowhere_is_said(ground_of: GroundOf, tmp_path: Path, to: str) -> None:
    async with ground_of() as ground, served(ground, tmp_path / "s") as ends:
        with pytest.raises(OnwardRefused):
            async with open_onward(tmp_path / "s", ORDER.model_copy(update={"to": to})):
                pytest.fail("it leads somewhere")
        assert ends == []


async def test_a_chain_that_is_lost_is_seen_as_cut(ground_of: GroundOf, tmp_path: Path) -> None:
    async with ground_of() as ground, served(ground, tmp_path / "s"):
        ground.define("echo", UDP)
        ground.run("echo", NEAR)
        async with open_onward(tmp_path / "s", ORDER) as end:
            await ground.asked[0].end.cut()
            with pytest.raises(trio.BrokenResourceError):
                await end.receive()


async def test_a_chain_outlives_the_control_socket_of_a_stopping_proxy(
    ground_of: GroundOf, tmp_path: Path
) -> None:
    with trio.fail_after(20):
        async with ground_of() as ground, trio.open_nursery() as stopping:
            ground.define("echo", UDP)
            ground.run("echo", NEAR)
            desk = OnwardDesk(ground.tunnels, lambda *_: None, ground.nursery)
            await stopping.start(serve_control, tmp_path / "s", dict, {WANT: desk.serve})
            async with open_onward(tmp_path / "s", ORDER) as end:
                with trio.CancelScope(shield=True):
                    stopping.cancel_scope.cancel()
                    await ground.asked[0].end.send(b"still here")
                    assert await end.receive() == b"still here"
                    await end.finish()
                    await ground.asked[0].end.finish()
                    assert await end.receive() is None
