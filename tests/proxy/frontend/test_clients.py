import os
import socket
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from overlay.http.connection import Limits
from overlay.http.errors import BadRequest
from overlay.http.exchange import Exchanged
from overlay.http.head import Field
from overlay.http.seam import Client
from overlay.http.testing_h2 import Http2Wire, get_fields
from proxy.errors import DefinitionUnavailable
from proxy.frontend.clients import Clients
from proxy.frontend.grace import Grace
from proxy.frontend.places import MAX_OF_ONE, OWN
from proxy.layer4.tunnels import Tunnels
from proxy.request.forwarding import Forwarder
from proxy.succession.messages import Moved
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.telemetry import Telemetry

GRPC: Field = (b"content-type", b"application/grpc")
REFUSED = "myxo_proxy_connections_refused_total"


async def test_a_connection_too_many_is_closed_at_once_and_counted() -> None:
    """Nothing is read of it, and nothing of the proxy beyond its count is met."""
    registry = CollectorRegistry()
    clients = Clients(
        cast("Forwarder", None),
        cast("Tunnels", None),
        Grace(),
        ProxyMetrics(registry),
        cast("Telemetry", None),
        Limits(),
        (),
    )
    for _ in range(MAX_OF_ONE):
        assert clients._places.take("s1")
    here, there = socket.socketpair()
    with trio.fail_after(20), there:
        there.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
        await clients.serve(stream, "s1")
        assert there.recv(1) == b""
    assert registry.get_sample_value(REFUSED, {"client": "container"}) == 1
    assert clients._places.take("s2")
    assert clients._places.take(OWN)
    assert registry.get_sample_value("myxo_proxy_connections") == MAX_OF_ONE + 2


class Failing:
    """A forwarder that fails so, and telemetry that is told of it."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.ends = 0

    async def forward(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise self._failure

    def ended(self, *_: object) -> None:
        self.ends += 1


@pytest.mark.parametrize(
    ("failure", "call", "other"),
    [
        (BadRequest(413, "too large"), b"2", 413),
        (DefinitionUnavailable("no registry"), b"14", 503),
    ],
)
async def test_a_refusal_is_told_in_the_client_s_own_terms_on_one_connection(
    failure: Exception, call: bytes, other: int
) -> None:
    failing = Failing(failure)
    clients = Clients(
        cast("Forwarder", failing),
        cast("Tunnels", None),
        Grace(),
        ProxyMetrics(CollectorRegistry()),
        cast("Telemetry", failing),
        Limits(),
        (),
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, clients.serve, 0, host="127.0.0.1")
            )
            port = listeners[0].socket.getsockname()[1]
            there = await trio.open_tcp_stream("127.0.0.1", port)
            wire = Http2Wire(there)
            await wire.start()
            refused = await wire.request([*get_fields(method=b"POST"), GRPC], b"x")
            status, fields, body, _ = await wire.answer(refused)
            assert (status, body) == (200, b"")
            assert (b"grpc-status", call) in fields
            plain = await wire.request(get_fields())
            assert (await wire.answer(plain))[0] == other
            await there.aclose()
            nursery.cancel_scope.cancel()
    assert failing.ends == 2


class Answering:
    """A forwarder whose answers say nothing, each when it may."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.may = trio.Event()

    async def forward(self, client: Client, *_: object) -> Exchanged:
        self.began.set()
        await self.may.wait()
        await client.respond(200)
        return Exchanged(200, 0, 0, 0.0, 0.0)

    def ended(self, *_: object) -> None:
        """Nothing is counted."""


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection, the first for trio."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    here.setblocking(False)
    there.settimeout(10)
    return here, there


REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def test_connections_go_to_the_process_that_takes_over_between_two_requests() -> None:
    """One that is idle, one in the middle of a head, and one when its request is answered."""
    grace, answering = Grace(), Answering()
    clients = Clients(
        cast("Forwarder", answering),
        cast("Tunnels", None),
        grace,
        ProxyMetrics(CollectorRegistry()),
        cast("Telemetry", answering),
        Limits(),
        ("127.0.0.0/8",),
    )
    moved: dict[str, socket.socket] = {}
    told: dict[str, Moved] = {}

    async def move(message: Moved, descriptor: int) -> bool:
        moved[message.source] = socket.socket(fileno=os.dup(descriptor))
        told[message.source] = message
        await trio.lowlevel.checkpoint()
        return True

    ends = {}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(grace.run)
            for source, sent in {"idle": b"", "begun": REQUEST[:9], "asking": REQUEST}.items():
                here, ends[source] = connected()
                ends[source].sendall(sent)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
                grace.connections.start_soon(clients.serve, stream, source)
            await answering.began.wait()
            await trio.testing.wait_all_tasks_blocked()
            clients.move = move
            grace.retire(10.0)
            await trio.testing.wait_all_tasks_blocked()
            assert set(moved) == {"idle", "begun"}
            answering.may.set()
            await grace.ended.wait()
    assert {source: message.received for source, message in told.items()} == {
        "idle": "",
        "begun": REQUEST[:9].decode(),
        "asking": "",
    }
    assert ends["asking"].recv(4096).startswith(b"HTTP/1.1 200 ")
    for source, end in ends.items():
        moved[source].sendall(b"on it goes")
        assert end.recv(4096) == b"on it goes"
        moved[source].close()
        assert end.recv(1) == b""
        end.close()


async def test_a_connection_that_cannot_be_moved_has_one_last_answer() -> None:
    grace, answering = Grace(), Answering()
    answering.may.set()
    clients = Clients(
        cast("Forwarder", answering),
        cast("Tunnels", None),
        grace,
        ProxyMetrics(CollectorRegistry()),
        cast("Telemetry", answering),
        Limits(),
        (),
    )

    async def move(message: Moved, descriptor: int) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    here, there = connected()
    with trio.fail_after(20), there:
        async with trio.open_nursery() as nursery:
            await nursery.start(grace.run)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
            grace.connections.start_soon(clients.serve, stream)
            await trio.testing.wait_all_tasks_blocked()
            clients.move = move
            grace.retire(10.0)
            await trio.testing.wait_all_tasks_blocked()
            there.sendall(REQUEST)
            await grace.ended.wait()
        answer = there.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer
