"""A client moves away from the machine that serves it, on the host lab: traffic moves after it."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from bench import backend
from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within
from overlay.spec import ServiceSpec

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENT, ONE, OTHER = "client", "one", "other"
SERVICE = "pipeline"
NEAR_S, FAR_S = 0.002, 0.1
SOFT_MS, HARD_MS = 50.0, 1000.0
"""Far apart, so that a busy machine's own delays are neither."""

MOVE_TIMEOUT_S = 90.0
"""Some ten probes and a start; the rest is for a busy machine's tests."""


class Asking:
    """One request after the other, and what came of them."""

    def __init__(self, network: LabNetwork) -> None:
        self._network = network
        self.place = ""
        self.failures: list[str] = []
        self.served = 0

    def ask(self) -> None:
        with closing(HTTPConnection("127.0.0.1", PROXY_PORT)) as connection:
            connection.sock = self._network.connect(CLIENT)
            connection.sock.settimeout(30.0)
            connection.request("GET", f"/{SERVICE}/")
            with connection.getresponse() as answer:
                answer.read()
                if answer.status != 200:
                    raise HTTPException(f"answered {answer.status}")
                self.place = answer.headers["Host-Name"]
                self.served += 1

    @contextmanager
    def all_the_time(self) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.02):
                try:
                    self.ask()
                except (OSError, HTTPException) as exc:
                    self.failures.append(repr(exc))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def move_to(network: LabNetwork, near: str) -> None:
    for machine in (ONE, OTHER):
        rtt_s = NEAR_S if machine == near else FAR_S
        network.lab.link(CLIENT, machine).set(delay_s=rtt_s / 2)


def why(network: LabNetwork) -> dict[str, Any]:
    printed = network.lab.host(CLIENT).run(["myxo", "why", SERVICE, "--json"]).stdout
    (answer,) = json.loads(printed)
    return dict(answer)


def moves(network: LabNetwork) -> list[str]:
    """Where better instances were started, as the proxy says."""
    events = [event for decision in why(network)["decisions"] for event in decision["events"]]
    reason = "all instances are over the soft RTT limit"
    return [e["chosen"] for e in events if e["what"] == "start" and e["why"] == reason]


def places(network: LabNetwork) -> set[str]:
    """The hosts that have an instance, as the client's proxy sees them."""
    return {row["host"] for row in why(network)["now"]["candidates"]}


def test_a_better_instance_takes_over_without_a_failure_and_the_old_one_goes() -> None:
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, ONE, OTHER)], preset="lan")
    with lab_network(plan, allocators=[ONE, OTHER], proxies=[CLIENT], runtime="process") as network:
        spec = ServiceSpec(
            process=f"exec {backend.program()} $SERVICE_PORT",
            soft_rtt_ms=SOFT_MS,
            hard_rtt_ms=HARD_MS,
            idle_pause_s=0,
            idle_stop_s=5,
        )
        move_to(network, ONE)
        network.add({SERVICE: spec})
        asking = Asking(network)
        with asking.all_the_time():
            # Before the first RTTs were measured, one may have been started on the other, too.
            within(60, lambda: places(network) == {ONE}, lambda: asking.failures[-3:])
            asking.failures.clear()  # the definition was on its way
            served = asking.served
            move_to(network, OTHER)
            within(MOVE_TIMEOUT_S, lambda: asking.place == OTHER, lambda: why(network)["now"])
            within(MOVE_TIMEOUT_S, lambda: OTHER in moves(network), lambda: moves(network))
            within(60, lambda: places(network) == {OTHER}, lambda: places(network))
        assert asking.failures == []
        assert asking.served > served
