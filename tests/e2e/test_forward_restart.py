"""A proxy is replaced by a new process, and the ports of `myxo forward` go on with that."""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

from bench.netlab.testing import within
from tests.e2e.test_forward import (
    LINES,
    TALK,
    TIMEOUT_S,
    connect,
    forwarding,
    myxo,
    refused,
)
from tests.e2e.test_restart import take_over

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Clients:
    """Programs that use two forwarded ports, and what went wrong with them.

    Attributes:
        counts: answers, by the port.
        over: set when they are to end.
    """

    failed: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    over: bool = False

    async def keep_on(self, ask: Callable[[], None], port: int) -> None:
        """Ask again and again."""
        while not self.over:
            try:
                await trio.to_thread.run_sync(ask)
            except OSError as exc:
                self.failed.append(f"port {port}: {exc!r}")
            self.counts[port] = self.counts.get(port, 0) + 1
            await trio.sleep(0.02)


def say(sock: socket.socket, said: bytes) -> None:
    sock.sendall(said)
    answer = sock.recv(len(said))
    if answer != said:
        raise OSError(f"{said!r} was answered {answer!r}")


async def until(condition: Callable[[], bool]) -> None:
    await trio.to_thread.run_sync(within, TIMEOUT_S, condition, "nothing goes on")


def say_anew(port: int) -> None:
    with connect(port) as sock:
        say(sock, b"x")


def ask_by_datagram(sock: socket.socket) -> None:
    """Send a datagram, again where it gets lost, as UDP's clients do."""
    sock.settimeout(5)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        sock.send(b"abc")
        try:
            answer = sock.recv(100)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise
            continue
        if answer != b"ABC\n":
            raise OSError(f"it was answered {answer!r}")
        return


async def test_what_is_forwarded_goes_on_over_a_restart(own_network: Any) -> None:
    talk = own_network.add_process("talk", TALK, protocol="tcp", idle_stop_s=600)
    upper = own_network.add_process("upper", LINES, "upper udp $SERVICE_PORT", protocol="udp")
    opened = await trio.to_thread.run_sync(myxo, own_network, "forward", upper, "--keep")
    kept = int(opened.stdout.split(" -> ")[0].rpartition(":")[2])
    old, clients = own_network.running["proxy"].process, Clients()
    with trio.fail_after(300), forwarding(own_network, talk) as (port, command):
        with (
            closing(await trio.to_thread.run_sync(connect, port)) as held,
            socket.socket(type=socket.SOCK_DGRAM) as sock,
        ):
            sock.connect(("127.0.0.1", kept))
            await trio.to_thread.run_sync(say, held, b"before")
            await trio.to_thread.run_sync(ask_by_datagram, sock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clients.keep_on, partial(say_anew, port), port)
                nursery.start_soon(clients.keep_on, partial(ask_by_datagram, sock), kept)
                await trio.to_thread.run_sync(partial(take_over, own_network))
                at = dict(clients.counts)
                await until(lambda: all(clients.counts[p] > at[p] + 10 for p in (port, kept)))
                clients.over = True
            assert clients.failed == []
            assert old.poll() is None, "it ends what is open first"
            await trio.to_thread.run_sync(say, held, b"after")
        assert await trio.to_thread.run_sync(old.wait) == 0
        await trio.to_thread.run_sync(say_anew, port)
        listed = await trio.to_thread.run_sync(myxo, own_network, "forward", "--list")
        assert f"127.0.0.1:{port} -> {talk}" in listed.stdout
        assert f"127.0.0.1:{kept} -> {upper}" in listed.stdout
        assert command.poll() is None
    await until(lambda: refused(port))
    own_network.no_traceback()
