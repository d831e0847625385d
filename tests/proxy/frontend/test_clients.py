import socket
from functools import partial
from typing import cast

import pytest
import trio
from prometheus_client import CollectorRegistry

from overlay.http.connection import Limits
from overlay.http.errors import BadRequest
from overlay.http.head import Field
from overlay.http.testing_h2 import Http2Wire, get_fields
from proxy.errors import DefinitionUnavailable
from proxy.frontend.clients import Clients
from proxy.frontend.grace import Grace
from proxy.frontend.places import MAX_OF_ONE, OWN
from proxy.layer4.tunnels import Tunnels
from proxy.request.forwarding import Forwarder
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
