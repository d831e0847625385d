from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from overlay.calls import Caller, CallHost
from overlay.control import Serve, serve_control
from overlay.errors import PeerUnreachable
from overlay.framing import FramedStream
from overlay.handover import Handover
from overlay.identity import Identity
from proxy.succession.heir import STEP_BACK_S, take_over
from proxy.succession.messages import WANT, AllHandedOver, Listening, SteppedBack
from proxy.succession.predecessor import Entrance


@asynccontextmanager
async def serving(path: Path, wants: Mapping[str, Serve]) -> AsyncIterator[trio.Nursery]:
    """Serve a control socket as a proxy does."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, dict, wants)
        yield nursery
        nursery.cancel_scope.cancel()


class NoHost:
    """A host that makes no calls."""

    async def open_stream(self, *_: str) -> FramedStream:
        raise PeerUnreachable("nobody is there")


async def test_there_is_nothing_to_take_over_where_no_proxy_runs(tmp_path: Path) -> None:
    with trio.fail_after(20):
        assert await take_over(tmp_path / "proxy-4200.sock") is None


async def test_an_older_proxy_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "proxy-4200.sock"
    with trio.fail_after(20):
        async with serving(path, {}):
            with pytest.raises(PeerUnreachable, match="the running proxy stays: unknown want"):
                await take_over(path)
    assert not path.with_suffix(".next").exists()


async def test_the_first_one_that_comes_gets_what_the_old_process_leaves(tmp_path: Path) -> None:
    path = tmp_path / "proxy-4200.sock"
    entrance, identity = Entrance(), Identity.generate()

    async def step_back() -> None:
        heir = await entrance.heir()
        with pytest.raises(PeerUnreachable, match="another process is taking over already"):
            await take_over(path)
        await heir.send(SteppedBack(tls_key="a key", seed=identity.seed.hex()))
        heir.close()

    with trio.fail_after(20):
        async with serving(path, {WANT: entrance.serve}) as nursery:
            nursery.start_soon(step_back)
            past = await take_over(path)
            assert past is not None
            assert past.legacy.tls_key == b"a key"
            assert past.legacy.identity == identity
            with pytest.raises(PeerUnreachable):
                await past.claim()
            past.close()


async def test_an_old_process_that_does_not_step_back_in_time_is_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It listens and does not answer; nothing here waits for it for ever."""
    autojump_clock.autojump_threshold = 0.1
    path = tmp_path / "proxy-4200.sock"
    heirs: list[Handover] = []
    entrance = Entrance()
    async with serving(path, {WANT: entrance.serve}):
        began = trio.current_time()
        with pytest.raises(PeerUnreachable, match=f"within {STEP_BACK_S:g} s"):
            await take_over(path)
        assert trio.current_time() == pytest.approx(began + STEP_BACK_S)
        heirs.append(await entrance.heir())
    heirs[0].close()


async def test_sockets_that_nobody_wants_are_closed_while_others_are_taken_out(
    tmp_path: Path,
) -> None:
    """The old process ends at once; where the bridges are is told by an allocator later."""
    path, entrance = tmp_path / "proxy-4200.sock", Entrance()

    async def step_back() -> None:
        heir = await entrance.heir()
        await heir.send(SteppedBack(tls_key="a key", seed=Identity.generate().seed.hex()))
        assert await heir.receive() is not None
        for number in range(4):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with listener:
                await heir.send(Listening(name=str(number)), [listener.socket.fileno()])
        await heir.send(AllHandedOver())
        heir.close()

    def takes_over(*_: object) -> None:
        raise AssertionError("nothing was handed over to go on with")

    with trio.fail_after(20):
        async with serving(path, {WANT: entrance.serve}) as nursery:
            nursery.start_soon(step_back)
            past = await take_over(path)
            assert past is not None
            await past.claim()
            left = list(past.listeners.values())
            async with trio.open_nursery() as adopting:
                adopting.start_soon(past.adopt, takes_over, Caller(cast("CallHost", NoHost())))
                while all(listener.socket.fileno() >= 0 for listener in left):
                    await trio.lowlevel.checkpoint()
                _, taken = past.listeners.popitem()
            async with taken:
                assert [listener.socket.fileno() >= 0 for listener in left].count(True) == 1
