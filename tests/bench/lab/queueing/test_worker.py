import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from bench.lab.queueing.replay import Serving, figures, mean_size, served
from bench.lab.queueing.runs import order
from bench.lab.queueing.worker import Refused, answer
from bench.lab.traces.choosing import Chooser
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from overlay.testing_ports import free_port

ORDER: dict[str, Any] = {
    "arrivals": [1, 2, 3],
    "sizes": [1, 1, 1],
    "service": "constant",
    "mean": 2,
    "mean_size": 1,
    "customers": None,
    "seed": 1,
    "worker": 1,
}


def test_a_worker_finds_what_the_simulation_in_one_process_finds() -> None:
    trace = list(generate(Parameters(samples=600), 1))
    serving = Serving(2.0, customers=150, seed=4)
    shares = served(trace, Chooser("least_request", [1.0] * 3, 1), serving)
    for number, share in enumerate(shares, 1):
        sent = json.dumps(order(number, share, serving, mean_size(trace)))
        found = json.loads(json.dumps(answer(json.loads(sent))))["figures"]
        expected = figures(share, 150)
        assert found == {name: getattr(expected, name) for name in expected.__slots__}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arrivals": [2, 1, 3]}, "arrivals must ascend"),
        ({"sizes": [1]}, "each needs a size"),
        ({"service": "gamma"}, "service is 'gamma'"),
        ({"mean": "soon"}, "could not convert"),
        ({"arrivals": None}, "not iterable"),
    ],
)
def test_what_is_no_share_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        answer(ORDER | change)


def test_what_lacks_is_named() -> None:
    with pytest.raises(Refused, match="seed is missing"):
        answer({name: value for name, value in ORDER.items() if name != "seed"})


@pytest.fixture
def worker() -> Iterator[httpx.Client]:
    """A worker as the network starts it."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "bench.lab.queueing.worker"],
        env=os.environ | {"SERVICE_PORT": str(port)},
    ) as process:
        transport = httpx.HTTPTransport(retries=10)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_worker_answers_over_http_and_ends_when_told_to(worker: httpx.Client) -> None:
    good = worker.post("/", json=ORDER)
    assert good.status_code == 200
    assert good.json()["figures"]["average_delay"] == 1
    assert worker.get("/").json()["host"]
    for body in (b"{", b"[]", b"{}"):
        bad = worker.post("/", content=body)
        assert bad.status_code == 400
        assert bad.json()["error"]
    large = HTTPConnection(worker.base_url.host, worker.base_url.port, timeout=10)
    for length, status in ((1 << 40, 413), ("many", 400)):
        with closing(large):
            large.putrequest("POST", "/")
            large.putheader("Content-Length", str(length))
            large.endheaders()
            assert large.getresponse().status == status
