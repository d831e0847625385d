"""Where services are placed on the host lab, by real daemons on links as long as the Earth's.

Hosts with an allocator and hosts with a proxy alone stand in different cities. Each caller asks for
one new service after the other; the answer names the host that it runs on. The figure is the RTT of
the link to that host ÷ that of the shortest link to a host that still had room. With load each
instance takes a quarter of a host's room and stays, until four fifths of all room are taken.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import backend
from bench.crowd import Asked, ask_at_once
from bench.errors import NetworkFailed
from bench.lab_network import HUB, LabNetwork, lab_network
from bench.netlab.geo import CITIES
from bench.netlab.plan import Plan, make_plan
from overlay.records import Role
from overlay.spec import ServiceSpec

SLOTS = 4
"""Instances that a host has room for, with load."""

FILL = 0.8
MILLICORES = 1000
ANSWER_TIMEOUT_S = 20.0
KNOWN_TIMEOUT_S = 30.0
NEWS_S = 0.5
"""Between two requests, with load: what is left is told within a tenth of it and a way."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large it is; `requests` of each caller, without load."""

    machines: int
    callers: int
    requests: int


FULL = Size(machines=8, callers=4, requests=15)
QUICK = Size(machines=4, callers=2, requests=4)


@dataclass(slots=True)
class Placed:
    """Ratios without and with load; how many requests were not answered by a start."""

    idle: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    failed: int = 0


def placed(size: Size) -> Placed:
    """Return where services were placed.

    Raises:
        LabFailed, NetworkFailed: it could not be measured.
    """
    machines = [f"m{n}" for n in range(1, size.machines + 1)]
    callers = [f"c{n}" for n in range(1, size.callers + 1)]
    plan = _plan(machines, callers)
    flags = ("--cpu-millicores", str(MILLICORES))
    with lab_network(
        plan, allocators=machines, proxies=callers, runtime="process", flags=flags
    ) as network:
        for caller in callers:
            _await_distances(network, caller)
        found = Placed()
        _Trial(network, plan, found).run(size)
        return found


def _plan(machines: list[str], callers: list[str]) -> Plan:
    cities = list(CITIES)
    names = [HUB, *machines, *callers]
    hosts = [{"name": name, "city": cities[i % len(cities)]} for i, name in enumerate(names)]
    return make_plan(hosts=hosts, preset="geo", seed=1)


class _Trial:
    """The requests, and which host has how much room by what was seen."""

    def __init__(self, network: LabNetwork, plan: Plan, found: Placed) -> None:
        self._network = network
        self._plan = plan
        self._found = found
        self._command = f"exec {backend.program()} $SERVICE_PORT"
        self._free = dict.fromkeys(network.allocators, SLOTS)

    def run(self, size: Size) -> None:
        """Ask without load, then with load."""
        callers = self._network.proxies
        idle = [f"idle-{n}" for n in range(size.requests * len(callers))]
        loaded = [f"load-{n}" for n in range(round(FILL * SLOTS * size.machines))]
        self._network.add({n: ServiceSpec(process=self._command) for n in idle})
        heavy = ServiceSpec(process=self._command, cpu_millicores=MILLICORES // SLOTS)
        self._network.add(dict.fromkeys(loaded, heavy))
        for caller, name in _in_turn(callers, idle):
            self._ask(caller, name, self._found.idle)
        for caller, name in _in_turn(callers, loaded):
            host = self._ask(caller, name, self._found.load)
            if host is not None:
                self._free[host] -= 1
            time.sleep(NEWS_S)

    def _ask(self, caller: str, name: str, ratios: list[float]) -> str | None:
        """Have a caller ask for a service that runs nowhere; return where it runs now."""
        asked = Asked(self._network.connect(caller), self._network.url(name))
        ask_at_once([asked], ANSWER_TIMEOUT_S)
        host = asked.answer.headers.get("host-name") if asked.answer is not None else None
        if not asked.ok or host is None:
            self._found.failed += 1
            return None
        best = min(self._rtt_s(caller, m) for m, free in self._free.items() if free > 0)
        ratios.append(self._rtt_s(caller, host) / best)
        return host

    def _rtt_s(self, caller: str, machine: str) -> float:
        links = self._plan.links
        return links[caller, machine].delay_s + links[machine, caller].delay_s


def _in_turn(callers: tuple[str, ...], names: list[str]) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(names):
        yield callers[number % len(callers)], name


def _await_distances(network: LabNetwork, caller: str) -> None:
    """Return when a caller has measured its distance to every allocator."""
    deadline = time.monotonic() + KNOWN_TIMEOUT_S
    while time.monotonic() < deadline:
        peers = [p for daemon in network.status(caller) for p in daemon["peers"]]
        allocators = [p for p in peers if p["role"] == Role.ALLOCATOR]
        measured = [p for p in allocators if p["measured_rtt_s"] is not None]
        if len(measured) == len(network.allocators):
            return
        time.sleep(0.1)
    raise NetworkFailed(f"{caller} has not measured all allocators in {KNOWN_TIMEOUT_S:g} s")
