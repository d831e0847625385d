#!/usr/bin/env python3
"""A bus with sensors rides past stops; a stop's aggregator serves it while it is near.

Usage: demo.py [--stops 3] [--pass-s 100] [--apart-s 55] [--sensors 48] [--stretch 1]
               [-o FOLDER]

It needs root: hosts and links are namespaces of this machine (docs/lab.md). The folder gets
ride.svg, readings.csv and distances.csv.
"""

import argparse
import sys
from pathlib import Path

from bench.errors import NetworkFailed
from bench.netlab.errors import LabFailed
from demos.experiment.plot import plot
from demos.experiment.ride import failures, summary, switches, write_csv
from demos.experiment.riding import rode
from demos.experiment.road import Road


def main() -> None:
    options = _options()
    stops = tuple(f"stop{n + 1}" for n in range(options.stops))
    road = Road(stops, options.pass_s, options.apart_s, options.stretch)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{options.sensors} sensors ride for {road.length_s:.0f} s past {options.stops} stops")
    try:
        ride = rode(road, options.sensors)
    except (LabFailed, NetworkFailed, TimeoutError) as exc:
        sys.exit(f"the demo failed: {exc}")
    write_csv(ride, folder)
    plot(ride, folder / "ride.svg")
    print(*summary(ride), sep="\n")
    print(f"see {folder}/ride.svg; the figures are in readings.csv and distances.csv")
    if len(switches(ride)) < options.stops - 1 or len(failures(ride)) == len(ride.readings):
        sys.exit("the demo failed: not every stop served")


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(description="shows how services follow a client that moves")
    made.add_argument("--stops", type=int, default=3)
    made.add_argument("--pass-s", type=float, default=100.0, help="that a stop is in reach")
    made.add_argument("--apart-s", type=float, default=55.0, help="from a stop to the next")
    made.add_argument("--sensors", type=int, default=48, help="on the bus, one reading a second")
    made.add_argument("--stretch", type=float, default=1.0, help="of all RTTs and limits")
    made.add_argument("-o", "--output", type=Path, default=Path("experiment"), metavar="FOLDER")
    options = made.parse_args()
    if options.stops < 1 or options.sensors < 1 or options.stretch <= 0:
        made.error("at least one stop and sensor, and a stretch over 0")
    if not 0 < options.apart_s < options.pass_s:
        made.error("--apart-s is over 0 and less than --pass-s")
    return options


if __name__ == "__main__":
    main()
