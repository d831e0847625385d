"""`proxy --engine envoy`: a real Envoy carries warm requests, the proxy all others, and no lease is lost."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

RAW = Path(__file__).with_name("raw_server.py")
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def network(process_network: Any) -> Any:
    own = str(process_network.daemons.free_port())
    process_network.join("envoy", "proxy", "--engine", "envoy", own)
    return process_network


@pytest.fixture(autouse=True)
def in_good_order(network: Any) -> Iterator[None]:
    yield
    network.no_traceback()


def carried(network: Any, name: str) -> float:
    """Return how many requests Envoy took to the service's instances by itself."""
    at = network.commands["envoy"][network.commands["envoy"].index("--prom-listen-addr") + 1]
    text = httpx.get(f"http://{at}/metrics", timeout=TIMEOUT_S).text
    found = re.search(rf'^myxo_proxy_envoy_requests_total{{service="{name}"}} (\S+)$', text, re.M)
    return float(found[1]) if found else 0.0


def until_carried(network: Any, name: str, path: str = "/") -> None:
    """Ask until Envoy answers by itself."""
    deadline = time.monotonic() + TIMEOUT_S
    while not carried(network, name):
        assert httpx.get(network.url(name, path, "envoy"), timeout=TIMEOUT_S).status_code == 200
        assert time.monotonic() < deadline


def test_a_cold_request_is_held_and_warm_ones_are_envoys(network: Any) -> None:
    name = network.add_process("raw", RAW)
    cold = httpx.get(network.url(name, "/x", "envoy"), timeout=TIMEOUT_S)
    assert (cold.status_code, cold.text.splitlines()[0]) == (200, "GET /x HTTP/1.1")
    until_carried(network, name)
