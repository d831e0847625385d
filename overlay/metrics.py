"""`/metrics` for Prometheus, one registry a daemon, served on trio."""

from collections.abc import Callable

import trio
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest, ClientGone
from overlay.membership import MemberState
from overlay.view import View

REQUEST_TIMEOUT_S = 10.0


async def serve_metrics(registry: CollectorRegistry, listener: trio.SocketListener) -> None:
    """Answer `GET /metrics` until cancelled."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(REQUEST_TIMEOUT_S):
                await _serve_scrape(ServerConnection(stream), registry)
        except (BadRequest, ClientGone, trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(serve, [listener])


async def _serve_scrape(connection: ServerConnection, registry: CollectorRegistry) -> None:
    while (head := await connection.read_head()) is not None:
        if head.target.split(b"?")[0] == b"/metrics":
            body = generate_latest(registry)
            await connection.respond(200, [(b"Content-Type", CONTENT_TYPE_LATEST.encode())], body)
        else:
            await connection.respond(404, [], b"metrics are at /metrics\n")


class PeerMetrics:
    """The series that every daemon has about its peers; they follow the view at each scrape."""

    def __init__(self, registry: CollectorRegistry, view: View) -> None:
        self._view = view
        self._peers = Gauge(
            "myxo_peers", "Members by state, this peer not counted.", ["state"], registry=registry
        )
        for state in (MemberState.ALIVE, MemberState.SUSPECT):
            self._peers.labels(state.value).set_function(self._counter(state))

    def _counter(self, state: MemberState) -> Callable[[], float]:
        return lambda: sum(p.state is state for p in self._view.peers())
