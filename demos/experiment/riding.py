"""The ride: hosts of the lab, links that change as the bus goes, and sensors on the bus."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from random import Random

from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from demos.experiment.ride import Distance, Reading, Ride
from demos.experiment.road import Road
from overlay.labels import NOT
from overlay.spec import ServiceSpec

BUS, CLOUD = "bus", "cloud"
CLOUD_RTT_MS = 20.0
"""Of everybody to the cloud, the bus too."""

EVERY_S = 1.0
"""From one reading of a sensor to its next."""

STEP_S = 0.1
"""From one change of the links to the next: 18 µs of RTT, which no measurement tells."""

LOOK_S = 0.5
"""From one look at what the proxy has measured to the next."""

ANSWER_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0

Clock = Callable[[], float]
"""Seconds of the ride."""


def rode(road: Road, sensors: int) -> Ride:
    """Return what was seen of a ride with so many sensors.

    Raises:
        LabFailed, NetworkFailed: it could not be made.
    """
    ride = Ride(road)
    with _network(road) as network:
        _move(network, road, 0.0)
        _await_answer(network)
        began = time.monotonic()

        def clock() -> float:
            return time.monotonic() - began

        with ThreadPoolExecutor(sensors + 2) as threads:
            tasks = [threads.submit(_drive, network, road, clock)]
            tasks.append(threads.submit(_look, network, ride, clock))
            phases = Random(1)
            for number in range(sensors):
                sensor = Sensor(network, f"bus-{number}", phases.random() * EVERY_S)
                tasks.append(threads.submit(sensor.ride, ride, clock))
            for task in tasks:
                task.result()
    return ride


@contextmanager
def _network(road: Road) -> Iterator[LabNetwork]:
    everybody = [HUB, CLOUD, BUS, *road.stops]
    plan = make_plan(
        hosts=[{"name": name} for name in everybody],
        default={"delay_ms": CLOUD_RTT_MS / 2},
        links=[{"between": (HUB, CLOUD), "delay_ms": 0.1}],
    )
    allocators = (CLOUD, *road.stops)
    proxies = (BUS, *road.stops)
    with lab_network(plan, allocators=allocators, proxies=proxies, runtime="process") as network:
        network.add({"aggregator": _aggregator(road), "predictor": _predictor()})
        yield network


def _aggregator(road: Road) -> ServiceSpec:
    return ServiceSpec(
        process="exec python3 -m demos.sensors.aggregator.server $SERVICE_PORT 127.0.0.1",
        soft_rtt_ms=road.soft_s * 1000,
        hard_rtt_ms=road.hard_s * 1000,
        constraints={"host": (f"{NOT}{CLOUD}",)},
        idempotent=True,  # a reading that comes twice where a link ends does no harm
    )


def _predictor() -> ServiceSpec:
    return ServiceSpec(
        process="exec python3 -m demos.sensors.predictor.server $SERVICE_PORT 127.0.0.1",
        constraints={"host": (CLOUD,)},
        max_instances=1,
    )


def _drive(network: LabNetwork, road: Road, clock: Clock) -> None:
    """Change the links as the bus goes, to the end of the ride."""
    while (at_s := clock()) < road.length_s:
        _move(network, road, at_s)
        time.sleep(STEP_S)


def _move(network: LabNetwork, road: Road, at_s: float) -> None:
    for stop, rtt_s in road.rtts_s(at_s).items():
        link = network.lab.link(BUS, stop)
        if rtt_s is None:
            link.cut()
        else:
            link.set(delay_s=rtt_s / 2)
            link.heal()


def _await_answer(network: LabNetwork) -> None:
    """Return when a first reading is answered, so that the definitions are known everywhere."""
    sensor = Sensor(network, "first", 0.0)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while (reading := sensor.send(0.0, lambda: 0.0)).failure:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no reading was answered in {READY_TIMEOUT_S:g} s: {reading}")
        time.sleep(STEP_S)


def _look(network: LabNetwork, ride: Ride, clock: Clock) -> None:
    """Note how far the stops are and how far the bus's proxy thinks that they are."""
    while (at_s := clock()) < ride.road.length_s:
        peers = [peer for daemon in network.status(BUS) for peer in daemon["peers"]]
        measured = {p["host"]: p["measured_rtt_s"] for p in peers if p["role"] == "allocator"}
        for stop, rtt_s in ride.road.rtts_s(at_s).items():
            ride.distances.append(Distance(at_s, stop, rtt_s, measured.get(stop)))
        time.sleep(LOOK_S)


class Sensor:
    """Sends a reading again and again over a connection that it keeps, when each is due.

    Args:
        network: whose bus it is on.
        name: its own.
        phase_s: when its first reading is due.
    """

    def __init__(self, network: LabNetwork, name: str, phase_s: float) -> None:
        self._network = network
        self._name = name
        self._phase_s = phase_s
        self._connection: HTTPConnection | None = None

    def ride(self, ride: Ride, clock: Clock) -> None:
        """Send readings to the end of the ride; one that is late is sent at once."""
        due_s = self._phase_s
        while due_s < ride.road.length_s:
            time.sleep(max(due_s - clock(), 0.0))
            ride.readings.append(self.send(due_s, clock))
            due_s += EVERY_S
        self._close()

    def send(self, due_s: float, clock: Clock) -> Reading:
        """Send a reading; return what became of it."""
        by, failure = ["", ""], ""
        try:
            by = self._ask(due_s)
        except (OSError, HTTPException) as exc:
            failure = str(exc) or type(exc).__name__
            self._close()
        aggregator, predictor = (name.partition(":")[0] for name in by)
        return Reading(due_s, self._name, clock() - due_s, aggregator, predictor, failure)

    def _ask(self, value: float) -> list[str]:
        connection = self._connected()
        connection.request("POST", f"/aggregator/upload/{self._name}/{value:.2f}")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != HTTPStatus.OK:
            raise HTTPException(f"{answer.status} {text.strip()}")
        by: list[str] = json.loads(text)["by"]
        return by

    def _connected(self) -> HTTPConnection:
        if self._connection is None:
            made = HTTPConnection("127.0.0.1", PROXY_PORT, timeout=ANSWER_TIMEOUT_S)
            made.sock = self._network.connect(BUS)
            made.auto_open = 0  # from here it would reach this machine's own proxy
            self._connection = made
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
