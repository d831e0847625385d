"""The sensors demo: readings that are gathered, what is predicted, and a flood of them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from bench.network import Network
from demos.sensors.aggregator.server import MAX_READINGS, Aggregator, reading_of
from demos.sensors.predictor.server import Predictor, next_value, readings_of
from demos.serving import Refused

SENSORS = 48


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7), ([1.0, 2.0], 3), ([4.0, 4.0, 4.0], 4), ([0.0, 1.0, 0.5], 1)],
)
def test_what_comes_next_is_where_the_line_goes(values: list[float], expected: float) -> None:
    assert next_value(values) == pytest.approx(expected)


def test_each_sensor_has_a_trend_of_its_own() -> None:
    predictor = Predictor()
    predictor.take([("a", 1.0), ("b", 10.0)])
    assert predictor.take([("a", 2.0), ("b", 10.0)]) == {"a": 3.0, "b": 10.0}


def test_more_sensors_than_there_is_room_for_change_nothing() -> None:
    predictor = Predictor()
    with pytest.raises(Refused, match="1000 sensors"):
        predictor.take([(str(n), 1.0) for n in range(1001)])
    assert predictor.values == {}


@pytest.mark.parametrize(
    "said", [None, {}, {"readings": []}, {"readings": [["a"]]}, {"readings": [["a", float("nan")]]}]
)
def test_an_upload_that_is_none_is_refused(said: Any) -> None:
    with pytest.raises(Refused, match="SENSOR, NUMBER"):
        readings_of(said)


@pytest.mark.parametrize(("sensor", "value"), [("a", "much"), ("a", "inf"), ("a" * 65, "1")])
def test_a_reading_that_is_none_is_refused_before_it_is_among_others(
    sensor: str, value: str
) -> None:
    with pytest.raises(Refused):
        reading_of(sensor, value)


class Uploads:
    """Stands for the predictor: holds the first upload until it is told to go on."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, float]]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, readings: list[tuple[str, float]]) -> dict[str, Any]:
        self.seen.append(readings)
        self.began.set()
        assert self.go_on.wait(30)
        return {"taken": len(readings)}


def await_waiting(aggregator: Aggregator, count: int) -> None:
    """Return when so many readings wait; nobody is told of each."""
    deadline = time.monotonic() + 30
    while aggregator.waiting < count:
        assert time.monotonic() < deadline, aggregator.waiting
        time.sleep(0.001)


def test_readings_that_come_during_an_upload_go_together_in_the_next() -> None:
    uploads = Uploads()
    aggregator = Aggregator(uploads)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(aggregator.add, "first", 1.0)
        assert uploads.began.wait(30)
        others = [threads.submit(aggregator.add, name, 2.0) for name in "abc"]
        await_waiting(aggregator, 3)
        uploads.go_on.set()
        assert first.result(30) == {"taken": 1}
        assert [other.result(30) for other in others] == [{"taken": 3}] * 3
    assert [len(readings) for readings in uploads.seen] == [1, 3]


def test_all_readings_of_an_upload_that_fails_fail_and_the_next_is_tried() -> None:
    failures = [Refused(HTTPStatus.BAD_GATEWAY, "predictor gave no answer")]

    def upload(readings: list[tuple[str, float]]) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return {"taken": len(readings)}

    aggregator = Aggregator(upload)
    with pytest.raises(Refused, match="no answer"):
        aggregator.add("a", 1.0)
    assert aggregator.add("a", 1.0) == {"taken": 1}


def test_a_batch_that_is_full_takes_no_more() -> None:
    uploads = Uploads()
    aggregator = Aggregator(uploads)
    with ThreadPoolExecutor(MAX_READINGS + 1) as threads:
        threads.submit(aggregator.add, "first", 1.0)
        assert uploads.began.wait(30)
        for _ in range(MAX_READINGS):
            threads.submit(aggregator.add, "a", 1.0)
        await_waiting(aggregator, MAX_READINGS)
        with pytest.raises(Refused, match="500 readings wait"):
            aggregator.add("one more", 1.0)
        uploads.go_on.set()
    assert [len(readings) for readings in uploads.seen] == [1, MAX_READINGS]


@pytest.mark.slow
def test_a_flood_of_first_readings_starts_each_service_once(
    running: Network, add: Callable[[str, str], None], starts: Callable[[], int]
) -> None:
    for name in ("aggregator", "predictor"):
        add(name, f"sensors/{name}")
    together = threading.Barrier(SENSORS)

    def send(number: int) -> httpx.Response:
        url = running.url("aggregator", f"/upload/s-{number}/{number}.5")
        with httpx.Client(timeout=60) as client:
            together.wait()
            return client.post(url)

    with ThreadPoolExecutor(SENSORS) as sensors:
        answers = list(sensors.map(send, range(SENSORS)))
    assert {answer.status_code for answer in answers} == {HTTPStatus.OK}
    assert [answer.json()["prediction"] for answer in answers] == [n + 0.5 for n in range(SENSORS)]
    assert len({tuple(answer.json()["by"]) for answer in answers}) == 1
    assert starts() == 2
    data = httpx.get(running.url("predictor", "/data"), timeout=60).json()
    assert data["sensors"] == {f"s-{n}": [n + 0.5] for n in range(SENSORS)}
    uploads = httpx.get(running.url("predictor", "/logs"), timeout=60).text.splitlines()
    assert len(uploads) < SENSORS, "readings that came together went together"
