"""Myxo's proxy with Envoy as its engine: a second proxy of the same machine, with one worker."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from bench.client import ask_until_ok
from bench.errors import NetworkFailed
from bench.network import Network, environment
from bench.starting import started
from overlay.testing_ports import free_port

WARM_S = 30.0


@contextmanager
def envoy_engine(running: Network, service: str) -> Iterator[tuple[str, int]]:
    """Run it; yield where the service is, once Envoy serves it, and Envoy's process id.

    Raises:
        NetworkFailed: it did not get ready, or Envoy does not serve the service.
    """
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "myxo", "proxy", "--engine", "envoy", "--ephemeral"]
    command += ["--p2p-listen-addr", f"127.0.0.1:{free_port()}"]
    command += ["--prom-listen-addr", f"127.0.0.1:{metrics}", str(port)]
    with started(
        command,
        log=running.folder / "engine.log",
        environment=environment(running.folder) | {"MYXO_PROXY_ENVOY_WORKERS": "1"},
    ) as proxy:
        url = f"http://127.0.0.1:{port}/{service}/"
        _await_envoy(url, f"http://127.0.0.1:{metrics}/metrics", service)
        yield url, _child(proxy.process.pid)


def _await_envoy(url: str, metrics: str, service: str) -> None:
    counted = f'myxo_proxy_envoy_requests_total{{service="{service}"}}'
    deadline = time.monotonic() + WARM_S
    while time.monotonic() < deadline:
        ask_until_ok(url)
        with urlopen(metrics) as answer:  # noqa: S310  (of a proxy that was started here)
            if counted in answer.read().decode():
                return
        time.sleep(0.1)
    raise NetworkFailed(f"Envoy does not serve {service} itself")


def _child(parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if Path(f"/proc/{child}/exe").resolve().name == "envoy":
            return int(child)
    raise NetworkFailed("the proxy has no Envoy")
