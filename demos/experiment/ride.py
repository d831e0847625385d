"""What was seen of a ride, and what it says: which stop served when, how soon, and what failed.

Pure: readings and distances in, switches and counts out; and the same as CSV.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from demos.experiment.road import Road

SHOWN_REASONS = 5

_NUMBERS = re.compile(r"\b(?=[0-9a-f.]*\d)[0-9a-f]{8,}\b|\b\d+(\.\d+)?(?= ?(ms|s)\b)")


class Reading(NamedTuple):
    """One reading that a sensor sent.

    Attributes:
        at_s: when it was due, in seconds of the ride.
        sensor: whose it is.
        latency_s: from when it was due until it was answered, or had failed.
        aggregator: the machine whose aggregator answered; empty if none did.
        predictor: the machine whose predictor did.
        failure: why there is no answer; empty if there is one.
    """

    at_s: float
    sensor: str
    latency_s: float
    aggregator: str
    predictor: str
    failure: str


class Distance(NamedTuple):
    """How far a stop was at a moment, in seconds.

    Attributes:
        link_s: the link's RTT; None where there was none.
        measured_s: what the bus's proxy had measured; None if it had not.
    """

    at_s: float
    stop: str
    link_s: float | None
    measured_s: float | None


@dataclass(slots=True)
class Ride:
    """Everything that was seen."""

    road: Road
    readings: list[Reading] = field(default_factory=list)
    distances: list[Distance] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Switch:
    """Answers came from another stop from then on.

    Attributes:
        wanted_s: from when on that was better: the old stop was over the soft limit, and the new
            one within it.
        at_s: when the first reading was due that the new one answered.
    """

    old: str
    new: str
    wanted_s: float
    at_s: float


def switches(ride: Ride) -> list[Switch]:
    """Return the changes from stop to stop, in order.

    A stop counts from the first reading that it answered. Of readings that are under way together
    some are answered by the old one yet, so that a stop that served before begins nothing.
    """
    first: dict[str, float] = {}
    for reading in sorted(ride.readings):
        if not reading.failure:
            first.setdefault(reading.aggregator, reading.at_s)
    stops = list(first)
    return [
        Switch(old, new, _wanted(ride.road, old, new), first[new]) for old, new in pairwise(stops)
    ]


def _wanted(road: Road, old: str, new: str) -> float:
    return max(road.within_limit(old)[1], road.within_limit(new)[0])


def failures(ride: Ride) -> list[Reading]:
    """Return the readings that were not answered."""
    return [reading for reading in ride.readings if reading.failure]


def over_limit_share(ride: Ride) -> float:
    """Return the share of answers from a stop that was over the soft limit by then."""
    answered = [reading for reading in ride.readings if not reading.failure]
    rtts = (ride.road.rtt_s(reading.aggregator, reading.at_s) for reading in answered)
    return sum(rtt is None or rtt > ride.road.soft_s for rtt in rtts) / max(len(answered), 1)


def by_second(readings: Iterable[Reading], length_s: float) -> Sequence[int]:
    """Return how many readings were due in each second of a ride."""
    counts = [0] * (int(length_s) + 1)
    for reading in readings:
        counts[min(int(reading.at_s), len(counts) - 1)] += 1
    return counts


def write_csv(ride: Ride, folder: Path) -> None:
    """Write `readings.csv` and `distances.csv`; milliseconds where a name ends so."""
    _write(
        folder / "readings.csv",
        ("at_s", "sensor", "latency_ms", "aggregator", "predictor", "failure"),
        (
            (f"{r.at_s:.3f}", r.sensor, _ms(r.latency_s), r.aggregator, r.predictor, r.failure)
            for r in sorted(ride.readings)
        ),
    )
    _write(
        folder / "distances.csv",
        ("at_s", "stop", "link_rtt_ms", "measured_rtt_ms"),
        ((f"{d.at_s:.3f}", d.stop, _ms(d.link_s), _ms(d.measured_s)) for d in ride.distances),
    )


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3f}"


def summary(ride: Ride) -> Iterator[str]:
    """Yield lines for a person."""
    sent, failed = len(ride.readings), failures(ride)
    yield f"{sent:,} readings in {ride.road.length_s:.0f} s; {len(failed)} failed"
    for switch in switches(ride):
        left_s, came_s = (
            ride.road.within_limit(switch.old)[1],
            ride.road.within_limit(switch.new)[0],
        )
        yield (
            f"{switch.old} was over the soft limit from {left_s:.1f} s, {switch.new} within it "
            f"from {came_s:.1f} s, and answered from {switch.at_s:.1f} s: "
            f"{switch.at_s - switch.wanted_s:+.1f} s"
        )
    yield f"{over_limit_share(ride):.0%} of the answers came from over the soft limit"
    for reason, count in reasons(failed)[:SHOWN_REASONS]:
        yield f"{count} failed: {reason}"


def reasons(failed: Iterable[Reading]) -> list[tuple[str, int]]:
    """Return why readings failed, the most frequent reason first, and how many did.

    Instances and RTTs are left out: the same reason is one, whatever numbers are in it.
    """
    return Counter(_NUMBERS.sub("…", reading.failure) for reading in failed).most_common()
