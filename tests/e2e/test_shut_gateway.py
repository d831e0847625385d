"""Only the direct way between two machines is cut, on the host lab: the overlay carries requests.

What is dropped are the packets to the gateway's port, as a firewall between two sites would.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException

import pytest

from bench import backend
from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within
from overlay.spec import ServiceSpec

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(400)]

CLIENT, FAR = "client", "far"
SERVICE = "far-away"
GATEWAY_PORT, METRICS_PORT = 4443, 9103
CLIENTS = 3
TIMEOUT_S = 60.0


class Asking:
    """Clients on one machine, each of which sends one GET after the other."""

    def __init__(self, network: LabNetwork) -> None:
        self._network = network
        self.road = ""
        self.failures: list[str] = []

    def ask(self) -> None:
        with closing(HTTPConnection("127.0.0.1", PROXY_PORT)) as connection:
            connection.sock = self._network.connect(CLIENT)
            connection.sock.settimeout(TIMEOUT_S)
            connection.request("GET", f"/{SERVICE}/", headers={"X-Myxo-Explain": "1"})
            with connection.getresponse() as answer:
                said = answer.read()
                if answer.status != 200:
                    raise HTTPException(f"answered {answer.status}: {said!r}")
                self.road = answer.headers["X-Myxo-Road"]

    def is_answered(self) -> bool:
        """Ask, and note whatever goes wrong."""
        try:
            self.ask()
        except (OSError, HTTPException) as exc:
            self.failures.append(repr(exc))
            return False
        return True

    @contextmanager
    def all_the_time(self) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.02):
                self.is_answered()

        threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


@contextmanager
def gateway_cut_off(network: LabNetwork) -> Iterator[None]:
    """Drop whatever comes to the gateway's port, without a word to who sent it."""
    far = network.lab.host(FAR)
    rule = ["INPUT", "-p", "tcp", "--dport", str(GATEWAY_PORT), "-j", "DROP"]
    far.run(["iptables", "-A", *rule])
    try:
        yield
    finally:
        far.run(["iptables", "-D", *rule])


def requests_by_road(network: LabNetwork) -> dict[str, int]:
    """Return how many requests took each road, as the proxy's metrics say."""
    with closing(HTTPConnection("127.0.0.1", METRICS_PORT)) as connection:
        connection.sock = network.lab.host(CLIENT).inside(
            lambda: socket.create_connection(("127.0.0.1", METRICS_PORT), TIMEOUT_S)
        )
        connection.request("GET", "/metrics")
        with connection.getresponse() as answer:
            figures = answer.read().decode()
    counted = re.findall(
        r'^myxo_proxy_road_seconds_count\{road="(\w+)"\} (\S+)$', figures, re.MULTILINE
    )
    return {road: int(float(number)) for road, number in counted}


def test_requests_go_over_the_overlay_while_the_direct_way_is_cut_and_then_back() -> None:
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, FAR)], preset="lan")
    with lab_network(plan, allocators=[FAR], proxies=[CLIENT], runtime="process") as network:
        command = f"exec {backend.program()} $SERVICE_PORT"
        network.add({SERVICE: ServiceSpec(process=command, idle_pause_s=0)})
        asking = Asking(network)
        within(TIMEOUT_S, asking.is_answered, lambda: asking.failures[-3:])
        asking.failures.clear()  # the definition was on its way
        with asking.all_the_time():
            within(TIMEOUT_S, lambda: asking.road == "gateway", network.log)
            with gateway_cut_off(network):
                within(TIMEOUT_S, lambda: asking.road == "overlay", network.log)
                assert asking.failures == []
            within(2 * TIMEOUT_S, lambda: asking.road == "gateway", network.log)
        assert asking.failures == []
        assert requests_by_road(network).keys() == {"gateway", "overlay"}
        printed = network.lab.host(CLIENT).run(["myxo", "why", SERVICE, "--json"]).stdout
        (answer,) = json.loads(printed)
        last = answer["decisions"][0]
        assert last["road"] == "gateway"
        assert "forward" in {phase["phase"] for phase in last["phases"]}
