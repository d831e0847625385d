"""Envoy as the same hop: one worker, one route, one upstream, no access log."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.hop import await_answer, program, running
from overlay.testing_ports import free_port

FLAGS = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")

_TYPE = "type.googleapis.com/envoy.extensions"
_ANY_NUMBER = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 1000000)
"""Above Envoy's circuit breakers of 1,024, which are no subject here."""


@contextmanager
def envoy(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Run Envoy before the server at `host:port`; yield its URL and process id when it answers.

    Raises:
        HopMissing: it is not installed.
        AnswerFailed: it does not answer through.
    """
    listen = free_port()
    with tempfile.TemporaryDirectory(prefix="myxo-bench-envoy-") as folder:
        config = Path(folder) / "envoy.json"
        write_config(config, ("127.0.0.1", listen), (host, port))
        log = Path(folder) / "envoy.log"
        with running([program("envoy"), "-c", str(config), *FLAGS], log) as process:
            url = f"http://127.0.0.1:{listen}/"
            await_answer(url, process, log)
            yield url, process.pid


def write_config(
    path: Path,
    listen: tuple[str, int],
    upstream: tuple[str, int],
    *,
    inbound: Mapping[str, Any] | None = None,
    outbound: Mapping[str, Any] | None = None,
) -> None:
    """Write a configuration that passes every request on.

    Args:
        path: of the file.
        listen: host and port to listen at.
        upstream: host and port of the server.
        inbound: Envoy's `common_tls_context` for clients, who must show a certificate.
        outbound: the same for the server.
    """
    chain: dict[str, Any] = {"filters": [_connections()]}
    if inbound is not None:
        tls = {"common_tls_context": inbound, "require_client_certificate": True}
        chain["transport_socket"] = _tls("DownstreamTlsContext", tls)
    cluster: dict[str, Any] = {
        "name": "backend",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [_ANY_NUMBER]},
        "load_assignment": {
            "cluster_name": "backend",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*upstream)}}]}],
        },
    }
    if outbound is not None:
        cluster["transport_socket"] = _tls("UpstreamTlsContext", {"common_tls_context": outbound})
    listener = {"address": _address(*listen), "filter_chains": [chain]}
    path.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )


def _connections() -> dict[str, Any]:
    route = {
        "name": "route",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}
                ],
            }
        ],
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "route_config": route,
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
                }
            ],
        },
    }


def _tls(kind: str, context: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"{_TYPE}.transport_sockets.tls.v3.{kind}", **context},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
