"""Myxo's proxy with Envoy as its engine: a second proxy of the same machine, with one worker."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from bench.client import ask_until_ok
from bench.errors import NetworkFailed
from bench.network import CHECKOUT, Network, environment
from overlay.notify import listening
from overlay.testing_ports import free_port

READY_TIMEOUT_S = 90.0
WARM_S = 30.0
STOP_S = 15.0


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
    log = running.folder / "engine.log"
    with listening(running.folder / "engine.ready") as ready, log.open("wb") as output:
        proxy = subprocess.Popen(
            command,
            env=environment(running.folder) | ready.environment | {"MYXO_PROXY_ENVOY_WORKERS": "1"},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            if not ready.wait(proxy, READY_TIMEOUT_S):
                raise NetworkFailed(f"`{' '.join(command)}` did not get ready:\n{log.read_text()}")
            url = f"http://127.0.0.1:{port}/{service}/"
            _await_envoy(url, f"http://127.0.0.1:{metrics}/metrics", service)
            yield url, _child(proxy.pid)
        finally:
            proxy.send_signal(signal.SIGINT)
            try:
                proxy.wait(STOP_S)
            except subprocess.TimeoutExpired:
                proxy.kill()
                proxy.wait()


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
