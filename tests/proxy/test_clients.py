import socket
from typing import cast

import trio
from prometheus_client import CollectorRegistry

from overlay.http.connection import Limits
from proxy.clients import Clients
from proxy.forwarding import Forwarder
from proxy.grace import Grace
from proxy.metrics import ProxyMetrics
from proxy.places import MAX_OF_ONE, OWN
from proxy.telemetry import Telemetry
from proxy.tunnels import Tunnels

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
