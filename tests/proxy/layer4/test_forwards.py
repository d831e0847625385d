"""Local ports over real sockets, to machines whose gateways are played in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from overlay.control import ControlConnection, open_control, serve_control
from overlay.identity import Identity
from overlay.spec import ServiceSpec
from proxy.layer4.forward_orders import WANT, Answer, Open, Remove
from proxy.layer4.forwards import Bequest, Forwards

GroundOf = Callable[[], AbstractAsyncContextManager[Any]]

NEAR = Identity.from_seed(bytes([2]) * 32)
HERE = "127.0.0.1"


@dataclass
class Proxy:
    """What holds local ports, and a machine that runs a TCP and a UDP service.

    Attributes:
        listening: what a stopping proxy ends first.
        stopping: what it sets then.
    """

    ground: Any
    path: Path
    forwards: Forwards
    connections: trio.Nursery
    listening: trio.CancelScope
    stopping: trio.Event
    ended: trio.Event

    def stop(self) -> None:
        self.listening.cancel()
        self.stopping.set()

    @asynccontextmanager
    async def command(self, to: str, *, keep: bool = False) -> AsyncIterator[tuple[int, Any]]:
        """Ask for a port as `myxo forward` does; yield it and the connection that holds it."""
        async with open_control(self.path, WANT) as connection:
            await connection.send(Open(to=to, host=HERE, keep=keep))
            answer = await said(connection)
            assert answer.error == ""
            yield int(answer.forwards[0].listen.rpartition(":")[2]), connection

    async def gateway(self, number: int = 0) -> Any:
        """Return the gateway's end of the first tunnel, or a later one."""
        while not (len(self.ground.asked) > number and self.ground.asked[number].end):
            await trio.testing.wait_all_tasks_blocked(0.001)
        return self.ground.asked[number].end

    async def leave_to_another(self) -> None:
        """Have other forwards go on with the ports, and this one stop."""
        left: list[Bequest] = []

        async def tell(bequest: Bequest) -> None:
            command = None if bequest.command is None else bequest.command.keep()
            left.append(replace(bequest, sock=bequest.sock.dup(), command=command))
            await trio.lowlevel.checkpoint()

        ground = self.ground
        heir = Forwards(
            ground.forwarder, ground.tunnels, lambda *_: None, self.connections, trio.Event()
        )
        await self.ground.nursery.start(heir.run)
        await self.forwards.leave(tell)
        self.stop()
        for bequest in left:
            heir.inherit(bequest)


async def closed(port: int) -> None:
    """Return when nobody has the UDP port any more."""
    while True:
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            try:
                return await sock.bind((HERE, port))
            except OSError:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def said(connection: ControlConnection) -> Answer:
    line = await connection.receive()
    assert line is not None
    return Answer.model_validate_json(line)


@pytest.fixture
async def proxy(ground_of: GroundOf, tmp_path: Path) -> AsyncIterator[Proxy]:
    with trio.fail_after(20):
        async with ground_of() as ground, trio.open_nursery() as connections:
            ground.define("talk", ServiceSpec(process="serve", protocol="tcp"))
            ground.define("echo", ServiceSpec(process="serve", protocol="udp"))
            ground.run("talk", NEAR)
            ground.run("echo", NEAR)
            stopping, ended = trio.Event(), trio.Event()
            forwards = Forwards(
                ground.forwarder, ground.tunnels, lambda *_: ended.set(), connections, stopping
            )
            wants = {WANT: forwards.serve}

            async def listen(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
                async with trio.open_nursery() as listeners:
                    await listeners.start(forwards.run)
                    await listeners.start(serve_control, tmp_path / "s", dict, wants)
                    task_status.started(listeners.cancel_scope)

            listening = await ground.nursery.start(listen)
            path = tmp_path / "s"
            yield Proxy(ground, path, forwards, connections, listening, stopping, ended)
            connections.cancel_scope.cancel()


async def test_what_is_open_when_the_proxy_stops_goes_on_to_its_end(proxy: Proxy) -> None:
    async with proxy.command("talk") as (port, connection):
        stream = await trio.open_tcp_stream(HERE, port)
        await stream.send_all(b"a")
        gateway = await proxy.gateway()
        assert await gateway.receive() == b"a"
        proxy.stop()
        assert await connection.receive() is None
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(HERE, port)
        await gateway.send(b"b")
        assert await stream.receive_some() == b"b"
        await stream.send_eof()
        assert await gateway.receive() is None
        await gateway.finish()
        assert await stream.receive_some() == b""
        await proxy.ended.wait()
        await stream.aclose()


async def test_a_session_goes_on_when_the_proxy_stops_and_no_other_begins(proxy: Proxy) -> None:
    async with proxy.command("echo") as (port, connection):
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            await sock.connect((HERE, port))
            await sock.send(b"a")
            gateway = await proxy.gateway()
            assert await gateway.receive() == b"a"
            proxy.stop()
            assert await connection.receive() is None
            await gateway.send(b"b")
            assert await sock.recv(100) == b"b"
            await gateway.cut()
            await proxy.ended.wait()
        await closed(port)
    assert len(proxy.ground.asked) == 1


async def test_when_its_command_is_gone_a_forward_and_what_is_open_on_it_end(proxy: Proxy) -> None:
    async with proxy.command("talk") as (port, _):
        stream = await trio.open_tcp_stream(HERE, port)
        gateway = await proxy.gateway()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await gateway.receive()
    await stream.aclose()


async def test_a_kept_forward_and_what_is_open_on_it_end_when_it_is_removed(proxy: Proxy) -> None:
    async with proxy.command("talk", keep=True) as (port, _):
        pass
    stream = await trio.open_tcp_stream(HERE, port)
    await proxy.gateway()
    async with open_control(proxy.path, WANT) as connection:
        await connection.send(Remove(port=port))
        (removed,) = (await said(connection)).forwards
    assert removed.keep
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()


async def test_a_command_hears_why_a_connection_leads_nowhere(proxy: Proxy) -> None:
    proxy.ground.refusals[NEAR.peer_id] = 421, "it has just ended"
    async with proxy.command("talk") as (port, connection):
        stream = await trio.open_tcp_stream(HERE, port)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert "talk runs nowhere" in (await said(connection)).trouble
        await stream.aclose()


# left to another process


async def test_a_port_that_is_left_goes_on_there_and_what_is_open_goes_on_here(
    proxy: Proxy,
) -> None:
    async with proxy.command("talk") as (port, connection):
        first = await trio.open_tcp_stream(HERE, port)
        gateway = await proxy.gateway()
        await proxy.leave_to_another()
        second = await trio.open_tcp_stream(HERE, port)
        for stream, far in ((first, gateway), (second, await proxy.gateway(1))):
            await stream.send_all(b"a")
            assert await far.receive() == b"a"
            await far.send(b"b")
            assert await stream.receive_some() == b"b"
        proxy.ground.refusals[NEAR.peer_id] = 421, "it has just ended"
        async with await trio.open_tcp_stream(HERE, port) as third:
            assert "talk runs nowhere" in (await said(connection)).trouble
            with pytest.raises(trio.BrokenResourceError):
                await third.receive_some()
    for stream in (first, second):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_a_kept_port_that_is_left_goes_on_without_a_command(proxy: Proxy) -> None:
    async with proxy.command("talk", keep=True) as (port, _):
        pass
    await proxy.leave_to_another()
    async with await trio.open_tcp_stream(HERE, port) as stream:
        await (await proxy.gateway()).send(b"a")
        assert await stream.receive_some() == b"a"


async def test_datagrams_go_where_their_port_was_left_and_answers_still_come_from_here(
    proxy: Proxy,
) -> None:
    async with proxy.command("echo") as (port, _):
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            await sock.connect((HERE, port))
            await sock.send(b"a")
            gateway = await proxy.gateway()
            assert await gateway.receive() == b"a"
            await proxy.leave_to_another()
            await sock.send(b"b")
            assert await (await proxy.gateway(1)).receive() == b"b"
            await gateway.send(b"c")
            assert await sock.recv(100) == b"c"
