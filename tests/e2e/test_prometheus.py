"""A real Prometheus, with the prometheus.yml that the docs give, scrapes every daemon."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

CONFIG = Path(__file__).resolve().parents[2] / "docs" / "prometheus.yml"
WAIT_S = 60.0
SCRAPE_INTERVAL = "300ms"  # the page's 5 s would only make the test slow

pytestmark = pytest.mark.slow


class Prometheus:
    """What a running Prometheus knows."""

    def __init__(self, url: str, log: Path) -> None:
        self._client = httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=9))
        self._log = log

    def query(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of each series that `expression` selects now.

        While it starts there are none: it listens first and answers 503 for a moment.
        """
        reply = self._client.get("/api/v1/query", params={"query": expression})
        if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return []
        result: list[dict[str, Any]] = reply.raise_for_status().json()["data"]["result"]
        return [series["metric"] for series in result]

    def wait_until(self, expression: str, right: Callable[[list[dict[str, str]]], bool]) -> None:
        """Return when what `expression` selects is right; scraping tells nobody that it is done."""
        deadline = time.monotonic() + WAIT_S
        while not right(found := self.query(expression)):
            if time.monotonic() > deadline:
                pytest.fail(f"{expression} still gives {found}\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def close(self) -> None:
        """Close the connection to it."""
        self._client.close()


@contextmanager
def scraping(program: str, port: int, ports: dict[str, int], folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the docs' configuration, its targets' ports exchanged for `ports`."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"]["scrape_interval"] = SCRAPE_INTERVAL
    for job in config["scrape_configs"]:
        (static,) = job["static_configs"]
        static["targets"] = [f"127.0.0.1:{ports[target]}" for target in static["targets"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}", log)
    try:
        yield prometheus
    finally:
        prometheus.close()
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def test_prometheus_scrapes_every_daemon_and_forgets_a_peer_that_left(
    daemons: Any, prometheus_program: str, tmp_path: Path
) -> None:
    metrics = {f"127.0.0.1:{port}": daemons.free_port() for port in range(9100, 9104)}
    own = [f"127.0.0.1:{port}" for port in metrics.values()]
    common = ("--psk", "a passphrase for this test", "--p2p-listen-addr")

    founder = daemons("bootstrap", *common, "127.0.0.1:0", "--prom-listen-addr", own[0])
    address = next(line for line in founder.printed().splitlines() if line.startswith("/ip4/"))
    join = ("-bootstrap", address, *common, "127.0.0.1:0", "-prom-listen-addr")
    daemons("allocator", *join, own[1])
    daemons("registry-service", *join, own[2])
    proxy = daemons("proxy", *join, own[3], str(daemons.free_port()))

    port = daemons.free_port()
    with scraping(prometheus_program, port, metrics, tmp_path) as prometheus:
        prometheus.wait_until(
            "up == 1",
            lambda found: (
                {series["job"] for series in found}
                == {"ping-monitor", "allocator", "registry-service", "proxy"}
            ),
        )
        rtt = 'ping_rtt{job="ping-monitor"}'
        prometheus.wait_until(rtt, lambda found: len(found) == 3)
        assert all({"host", "targetHost"} <= series.keys() for series in prometheus.query(rtt))
        assert len(prometheus.query('ping_ewma_rtt{job="ping-monitor"}')) == 3

        proxy.process.send_signal(signal.SIGTERM)
        prometheus.wait_until(rtt, lambda found: len(found) == 2)
