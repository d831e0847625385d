"""A line between two machines gets slow on the host lab, and only that one: it is measured anew."""

from typing import Any

import pytest

from bench.lab_network import HUB, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT, FAR, HELPER = "client", "far", "helper"

SLOW_S = 0.35
"""An RTT above the least time that a probe is given, 0.2 s: others are asked to ping the far peer,
and are answered, before it has answered the one who asks."""


def rtt_s(network: LabNetwork) -> float | None:
    """Return what the client's proxy has measured of the line to the far machine's allocator."""
    (proxy,) = network.status(CLIENT)
    peers: list[dict[str, Any]] = proxy["peers"]
    found = [p["measured_rtt_s"] for p in peers if p["host"] == FAR]
    return found[0] if found else None


def is_over(network: LabNetwork, least_s: float) -> bool:
    found = rtt_s(network)
    return found is not None and found > least_s


def test_a_line_that_gets_slow_is_measured_although_others_have_quicker_ones() -> None:
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, FAR, HELPER)], preset="lan")
    allocators = [FAR, HELPER]
    with lab_network(plan, allocators=allocators, proxies=[CLIENT], runtime="process") as network:
        within(60, lambda: rtt_s(network) is not None, network.log)
        network.lab.link(CLIENT, FAR).set(delay_s=SLOW_S / 2)
        within(90, lambda: is_over(network, 0.6 * SLOW_S), lambda: rtt_s(network))
