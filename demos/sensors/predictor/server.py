"""The sensors' predictor: learns each sensor's trend and says which reading comes next.

Usage: python3 -m demos.sensors.predictor.server PORT [ADDRESS]
"""

import threading
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from math import isfinite
from statistics import linear_regression
from typing import Any

from demos.serving import Refused, Reply, Request, as_json, here, not_found, serve

KEPT = 50
"""Readings of a sensor that its trend is drawn through."""

MAX_SENSORS = 1000


def next_value(values: Sequence[float]) -> float:
    """Return the next of evenly spaced values: where the line of least squares goes."""
    if len(values) < 2:
        return values[0]
    slope, intercept = linear_regression(range(len(values)), values)
    return slope * len(values) + intercept


class Predictor:
    """The last readings of each sensor, and what has come in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values: dict[str, deque[float]] = {}
        self.logs: deque[str] = deque(maxlen=KEPT)

    def take(self, readings: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Learn from readings; return what comes next for each sensor that is among them.

        Raises:
            Refused: there would be too many sensors; nothing was taken.
        """
        with self._lock:
            sensors = {sensor for sensor, _ in readings}
            if len(self.values.keys() | sensors) > MAX_SENSORS:
                text = f"there are {MAX_SENSORS} sensors already"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
            for sensor, value in readings:
                self.values.setdefault(sensor, deque(maxlen=KEPT)).append(value)
            self.logs.append(f"{len(readings)} readings of {len(sensors)} sensors")
            return {sensor: next_value(self.values[sensor]) for sensor in sensors}


def readings_of(said: Any) -> list[tuple[str, float]]:
    """Return the readings of an upload.

    Raises:
        Refused: it has none, or one that is no pair of a sensor and a number.
    """
    try:
        readings = [(str(sensor), float(value)) for sensor, value in said["readings"]]
    except (TypeError, KeyError, ValueError):
        readings = []
    if not readings or not all(isfinite(value) for _, value in readings):
        text = 'an upload is {"readings": [[SENSOR, NUMBER], ...]}'
        raise Refused(HTTPStatus.BAD_REQUEST, text)
    return readings


predictor = Predictor()


def answer(request: Request) -> Reply:
    match request.method, request.path:
        case "POST", "/upload":
            readings = readings_of(request.json())
            predictions = predictor.take(readings)
            return as_json({"predictions": predictions, "taken": len(readings), "by": [here()]})
        case "GET", "/data":
            sensors = {sensor: list(values) for sensor, values in predictor.values.copy().items()}
            return as_json({"sensors": sensors, "by": [here()]})
        case "GET", "/logs":
            return Reply("".join(f"{line}\n" for line in predictor.logs.copy()))
        case _:
            raise not_found(request, "POST /upload", "GET /data", "GET /logs")


if __name__ == "__main__":
    serve(answer)
