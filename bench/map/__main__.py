"""`python -m bench.map` compares maps with a plain loop and with other engines."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.command import FAILURES, Report, measured
from bench.machine import machine, machine_line
from bench.map.plan import FULL, QUICK, Found, Plan
from bench.map.plot import plot
from bench.map.report import PARTS, report


def main() -> None:
    """Measure what was asked for; exit with 1 if it could not be measured."""
    options = _parser().parse_args()
    plan = plan_of(options)
    if not options.json:
        print(machine_line())
    founds: list[Found] = []

    def measure(_quick: bool) -> Report:
        done, found = report(plan)
        founds.append(found)
        return done

    try:
        done = measured(measure, options.quick)
    except FAILURES as exc:
        sys.exit(f"bench.map: {exc}")
    if options.plot is not None:
        plot(founds[0].sizes, founds[0].values, options.plot)
    if options.json:
        about = {"bench": "map", "quick": options.quick, "machine": machine()}
        print(json.dumps(about | dict(done.figures)))
    else:
        print(f"\n{done.text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.map",
        description="Compares maps with a plain loop, Ray, Dask, joblib and multiprocessing.Pool.",
        epilog="Example: python -m bench.map --sizes 100,1e4 --runs 3 --plot sweeps.svg",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--sizes", type=_numbers, help="items of the first sweep")
    parser.add_argument("--values", type=_numbers, help="whose factorials the second one takes")
    parser.add_argument("--chunk", type=_number, help="items of a message; else by measured time")
    parser.add_argument("--workers", type=_number, help=f"of each engine; else {FULL.workers}")
    parser.add_argument(
        "--runs",
        type=_number,
        help=f"of what is not short (items that cost nothing, the speed-up); else {FULL.runs}, "
        f"quickly {QUICK.runs}",
    )
    parser.add_argument(
        "--bootstrap",
        metavar="ADDR",
        help="map on the network that this node is of, for the sweeps; passphrase in MYXO_PSK",
    )
    parser.add_argument(
        "--links",
        type=_numbers,
        metavar="MS",
        help="the sweeps with the workers so many milliseconds away and back, on the host lab; "
        "such as 20,100",
    )
    parser.add_argument("--only", choices=PARTS, help="measure this part alone, on this machine")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the sweeps, as .svg or .png"
    )
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the command line asks for."""
    given = {
        name: getattr(options, name)
        for name in ("sizes", "values", "chunk", "workers", "runs", "bootstrap", "links", "only")
        if getattr(options, name) is not None
    }
    return replace(QUICK if options.quick else FULL, **given)


def _numbers(text: str) -> Sequence[int]:
    return sorted(_number(one) for one in text.split(","))


def _number(text: str) -> int:
    number = float(text)  # 1e6 is how people write a million
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return int(number)


if __name__ == "__main__":
    main()
