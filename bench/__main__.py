"""`python -m bench` runs every benchmark quickly, one after the other, and prints its table.

`--full` takes all samples, and `--write` puts the tables into `bench/README.md`.
"""

import argparse
import re
import sys
from pathlib import Path

from bench import (
    bus,
    cold,
    crowded,
    dialog,
    distant,
    estimates,
    fairness,
    flood,
    load,
    many,
    nat,
    overlay,
    placement,
    proxy,
    queues,
    telemetry,
    up,
    warm,
)
from bench.command import FAILURES, Measure, measured
from bench.machine import machine_line
from bench.map import report as map_engines
from bench.sim import report as sim

ALL: dict[str, Measure] = {
    "cold": cold.measure,
    "warm": warm.measure,
    "proxy": proxy.measure,
    "fairness": fairness.measure,
    "crowded": crowded.measure,
    "telemetry": telemetry.measure,
    "up": up.measure,
    "placement": placement.measure,
    "flood": flood.measure,
    "bus": bus.measure,
    "distant": distant.measure,
    "many": many.measure,
    "map": map_engines.measure,
    "dialog": dialog.measure,
    "overlay": overlay.measure,
    "estimates": estimates.measure,
    "nat": nat.measure,
    "sim": sim.measure,
    "load": load.measure,
    "queues": queues.measure,
}
PAGE = Path(__file__).with_name("README.md")


def main() -> None:
    """Run what was asked for; exit with 1 if one could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Runs every benchmark.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; else all")
    parser.add_argument("--full", action="store_true", help="all samples, some 45 minutes")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    if unknown := set(options.names) - ALL.keys():
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    failed = False
    for name in options.names or ALL:
        try:
            text = _run(name, quick=not options.full)
        except FAILURES as exc:
            print(f"not measured: {exc}", flush=True)
            failed = True
            continue
        if options.write:
            PAGE.write_text(replaced(PAGE.read_text(), name, text))
    sys.exit(failed)


def _run(name: str, *, quick: bool) -> str:
    """Run one benchmark; return its table below the line on the machine."""
    line = machine_line()
    print(f"\n## bench.{name}{' --quick' if quick else ''}\n\n{line}\n", flush=True)
    text = measured(ALL[name], quick).text
    print(text, flush=True)
    command = f"python -m bench {name}{'' if quick else ' --full'} --write"
    return f"`{command}` on {line}:\n\n{text}"


def replaced(page: str, name: str, text: str) -> str:
    """Return `page` with `text` between the two comments that mark where `name`'s table is.

    Raises:
        ValueError: there is no such place.
    """
    place = re.compile(rf"(<!-- bench\.{name} -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, count = place.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"the page has {count} places for bench.{name}")
    return changed


if __name__ == "__main__":
    main()
