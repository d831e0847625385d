"""`python -m bench` runs every benchmark quickly, one after the other, and prints its table."""

import sys

from bench import cold, up, warm
from bench.command import FAILURES, Measure, measured
from bench.machine import machine_line

ALL: dict[str, Measure] = {"up": up.measure, "cold": cold.measure, "warm": warm.measure}


def main() -> None:
    """Run them all; exit with 1 if one could not be measured."""
    failed = False
    print(machine_line())
    for name, measure in ALL.items():
        print(f"\n## bench.{name} --quick\n", flush=True)
        try:
            print(measured(measure, True).text, flush=True)
        except FAILURES as exc:
            print(f"not measured: {exc}", flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
