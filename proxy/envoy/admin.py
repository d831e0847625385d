"""Envoy's admin interface, over its Unix socket: what is under way, and how it is told to drain."""

import json
from pathlib import Path
from typing import Any

import h11
import trio

from overlay.errors import MyxoError
from proxy.envoy.loans import Seen

ANSWER_S = 5.0
"""For one answer; it takes a millisecond for a hundred services."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of thousands of endpoints, with a KiB each."""

_READ = 65536

PROXY = "proxy"
"""The endpoint that is at a Unix socket."""

Clusters = dict[str, dict[str, Seen]]
"""By the cluster's name and the endpoint's `host:port`, or `PROXY`."""


class AdminUnreachable(MyxoError):
    """Envoy does not answer."""


class Admin:
    """Asks the Envoy behind one socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def is_live(self) -> bool:
        """Return whether it has read all of its configuration and listens."""
        try:
            status, _ = await self._ask("GET", "/ready")
        except AdminUnreachable:
            return False
        return status == 200  # noqa: PLR2004  (OK)

    async def clusters(self) -> Clusters:
        """Return the endpoints that it knows, and what they have under way.

        Raises:
            AdminUnreachable: it does not answer.
        """
        return clusters_in(json.loads(await self._body("GET", "/clusters?format=json")))

    async def under_way(self) -> tuple[int, int]:
        """Return how many requests of clients, and connections with them, there are.

        Raises:
            AdminUnreachable: it does not answer.
        """
        path = r"/stats?filter=^http\..*\.downstream_(rq|cx)_active$"
        lines = (await self._body("GET", path)).decode().splitlines()
        of_clients = [line.rsplit(": ", 1) for line in lines if "http.admin." not in line]
        requests = sum(int(count) for name, count in of_clients if name.endswith("rq_active"))
        connections = sum(int(count) for name, count in of_clients if name.endswith("cx_active"))
        return requests, connections

    async def end_kept_connections(self) -> None:
        """Have it end the connections that are kept when they are next used.

        Raises:
            AdminUnreachable: it does not answer.
        """
        await self._body("POST", "/drain_listeners?graceful&skip_exit")

    async def stop_listening(self) -> None:
        """Have it take no new connection.

        Raises:
            AdminUnreachable: it does not answer.
        """
        await self._body("POST", "/drain_listeners")

    async def _body(self, method: str, target: str) -> bytes:
        status, body = await self._ask(method, target)
        if status != 200:  # noqa: PLR2004  (OK)
            raise AdminUnreachable(f"Envoy answers {status} to {target}")
        return body

    async def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        try:
            with trio.fail_after(ANSWER_S):
                async with await trio.open_unix_socket(self._path) as stream:
                    return await _exchange(stream, method, target)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError) as exc:
            raise AdminUnreachable(f"Envoy's admin interface does not answer: {exc!r}") from exc


async def _exchange(stream: trio.abc.Stream, method: str, target: str) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    fields = [("Host", "envoy"), ("Content-Length", "0"), ("Connection", "close")]
    for part in (h11.Request(method=method, target=target, headers=fields), h11.EndOfMessage()):
        await stream.send_all(http.send(part) or b"")
    status, body = 0, bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        if len(body) > MAX_ANSWER_BYTES or isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the answer is too long, or ended early")
    return status, bytes(body)


def clusters_in(answer: Any) -> Clusters:
    """Return what `/clusters?format=json` says of endpoints."""
    return {
        cluster["name"]: dict(map(_endpoint, cluster.get("host_statuses", [])))
        for cluster in answer.get("cluster_statuses", [])
    }


def _endpoint(status: Any) -> tuple[str, Seen]:
    address = status["address"].get("socket_address")
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    active = stats.get("rq_active", 0) + stats.get("rq_pending_active", 0)
    draining = status.get("health_status", {}).get("eds_health_status") == "DRAINING"
    where = PROXY if address is None else f"{address['address']}:{address['port_value']}"
    return where, Seen(active, stats.get("rq_total", 0), draining)
