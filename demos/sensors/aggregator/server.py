"""The sensors' aggregator: takes readings from all sensors near it, and hands them on together.

Readings that arrive while an upload is under way wait for the next one, in which all of them go.
So however many sensors there are, the predictor gets one request after the other; and each sensor
is answered with what the predictor made of its own reading.

Usage: python3 -m demos.sensors.aggregator.server PORT [ADDRESS]
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from math import isfinite
from typing import Any
from urllib.parse import unquote

from demos.serving import Refused, Reply, Request, as_json, ask, here, not_found, serve

MAX_READINGS = 500
"""In one upload; a sensor whose reading would be one more is told to come back."""

MAX_NAME = 64

UPLOAD = "POST /upload/SENSOR/VALUE"


@dataclass
class Batch:
    """Readings that go to the predictor together, and what became of them."""

    readings: list[tuple[str, float]] = field(default_factory=list)
    outcome: dict[str, Any] | Refused | None = None


class Aggregator:
    """Gathers readings in batches; `upload` takes one batch's readings to the predictor."""

    def __init__(self, upload: Callable[[list[tuple[str, float]]], dict[str, Any]]) -> None:
        self._upload = upload
        self._filling = Batch()
        self._gathering = threading.Lock()
        self._uploading = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many readings wait for the next upload."""
        return len(self._filling.readings)

    def add(self, sensor: str, value: float) -> dict[str, Any]:
        """Return what the predictor said about the batch that this reading was in.

        Raises:
            Refused: it gave no answer, or too many readings wait for it.
        """
        with self._gathering:
            batch = self._filling
            if len(batch.readings) == MAX_READINGS:
                text = f"{MAX_READINGS} readings wait for the predictor"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
            batch.readings.append((sensor, value))
        with self._uploading:
            if batch.outcome is None:  # else somebody took it along
                with self._gathering:
                    self._filling = Batch()
                try:
                    batch.outcome = self._upload(batch.readings)
                except Refused as refused:
                    batch.outcome = refused
        if isinstance(batch.outcome, Refused):
            raise batch.outcome
        return batch.outcome


def upload(readings: list[tuple[str, float]]) -> dict[str, Any]:
    """Hand readings to the predictor."""
    said: dict[str, Any] = ask("predictor", "/upload", {"readings": readings})
    return said


aggregator = Aggregator(upload)


def reading_of(sensor: str, text: str) -> tuple[str, float]:
    """Return the reading that a path names.

    Raises:
        Refused: the sensor's name is too long, or its value is no number.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or len(sensor) > MAX_NAME:
        text = f"a sensor's name has at most {MAX_NAME} signs, and its value is a number"
        raise Refused(HTTPStatus.BAD_REQUEST, text)
    return unquote(sensor), value


def answer(request: Request) -> Reply:
    match request.method, request.path.split("/")[1:]:
        case "POST", ["upload", written, text] if written:
            sensor, value = reading_of(written, text)
            said = aggregator.add(sensor, value)
            body = {"prediction": said["predictions"][sensor], "together": said["taken"]}
            return as_json(body | {"by": [here(), *said["by"]]})
        case _:
            raise not_found(request, UPLOAD)


if __name__ == "__main__":
    serve(answer)
