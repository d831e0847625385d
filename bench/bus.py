"""A client that moves: how soon its requests go to the machine that is near now, and what fails.

The pipeline of a bus that PhysarumSM showed. A proxy rides on the bus; two machines stand at its
way, one at 1 ms, the other at 9 ms (RTT). The service has a soft limit of 5 ms and a hard one of
10 ms, so that there is always a machine that may serve it. Again and again the near machine becomes
the far one and the other way round, while the proxy is asked all the time; the answers name the
machine that they come from. The switch is timed from the change of the links, which is also the
breach of the soft limit.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from statistics import median
from typing import Any

from bench import backend
from bench.client import OK
from bench.command import Report, run
from bench.errors import NetworkFailed
from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.stats import quantile, spread, table
from overlay.spec import ServiceSpec

BUS, MACHINES = "bus", ("stop1", "stop2")
SERVICE = "pipeline"
NEAR_S, FAR_S = 0.001, 0.009
SOFT_MS, HARD_MS = 5.0, 10.0

SWITCHES, SWITCHES_QUICK = 10, 2
SWITCH_TIMEOUT_S, SWITCH_TIMEOUT_QUICK_S = 40.0, 11.0
RIDE_S = 2.0
"""Between a switch and the next change: the bus rides on."""

PAUSE_S = 0.02
ANSWER_TIMEOUT_S = 10.0
_STEP_S = 0.01


@dataclass(slots=True)
class Ride:
    """What was answered: by whom last, seconds of each answer, and what failed."""

    place: str = ""
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        LabFailed, NetworkFailed: it could not be measured.
    """
    plan = make_plan(hosts=[{"name": name} for name in (HUB, BUS, *MACHINES)], preset="lan")
    with lab_network(plan, allocators=MACHINES, proxies=[BUS], runtime="process") as network:
        command = f"exec {backend.program()} $SERVICE_PORT"
        spec = ServiceSpec(process=command, soft_rtt_ms=SOFT_MS, hard_rtt_ms=HARD_MS)
        _move(network, near=MACHINES[0])
        network.add({SERVICE: spec})
        return report(*_ride(network, quick))


def _ride(network: LabNetwork, quick: bool) -> tuple[list[float | None], Ride]:
    """Return the seconds of each switch, None where there was none in time, and what was seen."""
    count = SWITCHES_QUICK if quick else SWITCHES
    timeout_s = SWITCH_TIMEOUT_QUICK_S if quick else SWITCH_TIMEOUT_S
    with _asking(network) as ride:
        first = _until(ride, MACHINES[0], 2 * ANSWER_TIMEOUT_S)
        if first is None:
            raise NetworkFailed(f"no answer from {MACHINES[0]}: {ride.failures[-1:]}")
        ride.failures.clear()  # the definition was on its way
        switches = []
        for number in range(count):
            time.sleep(RIDE_S)
            near = MACHINES[(number + 1) % 2]
            _move(network, near=near)
            switches.append(_until(ride, near, timeout_s))
        return switches, ride


def _move(network: LabNetwork, *, near: str) -> None:
    for machine in MACHINES:
        rtt_s = NEAR_S if machine == near else FAR_S
        network.lab.link(BUS, machine).set(delay_s=rtt_s / 2)


def _until(ride: Ride, place: str, timeout_s: float) -> float | None:
    """Return the seconds until answers come from `place`, or None if they do not."""
    began = time.monotonic()
    while ride.place != place:
        if time.monotonic() - began > timeout_s:
            return None
        time.sleep(_STEP_S)
    return time.monotonic() - began


@contextmanager
def _asking(network: LabNetwork) -> Iterator[Ride]:
    """Ask all the time, one request after the other, for the length of a block."""
    ride, over = Ride(), threading.Event()

    def ask() -> None:
        while not over.wait(PAUSE_S):
            try:
                _ask(network, ride)
            except (OSError, HTTPException) as exc:
                ride.failures.append(str(exc))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield ride
    finally:
        over.set()
        thread.join()


def _ask(network: LabNetwork, ride: Ride) -> None:
    with closing(HTTPConnection("127.0.0.1", PROXY_PORT)) as connection:
        connection.sock = network.connect(BUS)
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        began = time.perf_counter()
        connection.request("GET", f"/{SERVICE}/")
        with connection.getresponse() as answer:
            text = answer.read().decode(errors="replace")
            if answer.status != OK:
                raise HTTPException(f"{answer.status}: {text}")
            ride.place = answer.headers["Host-Name"]
        ride.latencies_s.append(time.perf_counter() - began)


def report(switches: list[float | None], ride: Ride) -> Report:
    """Return the figures of a ride."""
    done = [s for s in switches if s is not None]
    figures: dict[str, Any] = {
        "switches": len(switches),
        "switched": len(done),
        "switch_p50_s": median(done) if done else None,
        "switch_max_s": max(done) if done else None,
        "requests": len(ride.latencies_s) + len(ride.failures),
        "failed": len(ride.failures),
        "latency_p50_ms": quantile(ride.latencies_s, 0.5) * 1000,
        "latency_p99_ms": quantile(ride.latencies_s, 0.99) * 1000,
    }
    rows = [
        ["switches to the machine that is near now", f"{len(done)} of {len(switches)}"],
        ["from the breach to the first answer, s", spread(done).text(1) if done else "none"],
        ["requests that failed", f"{len(ride.failures)} of {figures['requests']:,}"],
        ["a request, ms: p50", f"{figures['latency_p50_ms']:.1f}"],
        ["p99", f"{figures['latency_p99_ms']:.1f}"],
    ]
    text = table(["a bus between two machines, 1 and 9 ms away", ""], rows)
    said = f"\n\nthe last that failed: {ride.failures[-1].strip()}" if ride.failures else ""
    return Report(figures, text + said)


if __name__ == "__main__":
    run("bus", "A client that moves between two machines.", measure)
