"""`python -m bench.sim` measures a simulated network, or plays one kind of trouble in it."""

import argparse
import json
import sys

from bench.machine import machine, machine_line
from bench.sim.checks import CheckFailed
from bench.sim.latency import MATRICES
from bench.sim.report import PARTS, SIZES, report
from bench.sim.scenarios import SCENARIOS, play

PEERS, PEERS_QUICK = 1000, 100
LEAST_PEERS = 3


def main() -> None:
    """Do what was asked for; exit with 1 if a scenario did not end right."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sim",
        description="Runs the overlay's cores in a simulated network, in virtual time.",
        epilog="Example: python -m bench.sim --peers 50 --seed 7 --scenario storm",
    )
    parser.add_argument(
        "--peers", type=int, help=f"how many; else {PEERS:,}, quickly {PEERS_QUICK}"
    )
    parser.add_argument("--seed", type=int, default=1, help="one seed is one course of events")
    parser.add_argument(
        "--scenario", choices=SCENARIOS, help="play this and check how it ends; else measure"
    )
    parser.add_argument(
        "--matrix", choices=MATRICES, default="geographic", help="latencies of the scenario"
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples, below 50 s")
    parser.add_argument("--full", action="store_true", help="the networks of the page's tables")
    parser.add_argument("--only", choices=PARTS, help="of the figures, these")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    fallback = PEERS_QUICK if options.quick else PEERS
    peers = fallback if options.peers is None else options.peers
    if peers < LEAST_PEERS:
        parser.error(f"--peers {peers}: a network has {LEAST_PEERS} at least")
    if options.scenario is not None:
        _play(options, peers)
    else:
        _measure(options, peers)


def _play(options: argparse.Namespace, peers: int) -> None:
    try:
        outcome = play(options.scenario, peers, options.seed, options.matrix)
    except CheckFailed as exc:
        sys.exit(f"bench.sim: {exc}")
    about = {"scenario": options.scenario, "peers": peers, "seed": options.seed}
    figures = {
        "settled_s": round(outcome.settled_s, 1),
        "false_deaths": outcome.false_deaths,
        "events": outcome.events,
        "course": outcome.course,
    }
    if options.json:
        print(json.dumps(about | figures))
        return
    print(
        f"{options.scenario}: {SCENARIOS[options.scenario].what}\n"
        f"{peers} peers, seed {options.seed}: all was so {outcome.settled_s:.1f} s after the end; "
        f"{outcome.false_deaths} times somebody was held for dead who was not\n"
        f"{outcome.events:,} events, course {outcome.course}"
    )


def _measure(options: argparse.Namespace, peers: int) -> None:
    if not options.json:
        print(machine_line())
    sizes = SIZES if options.full else [peers]
    only = PARTS if options.only is None else [options.only]
    found = report(sizes, options.seed, quick=options.quick, only=only)
    if options.json:
        about = {"bench": "sim", "quick": options.quick, "machine": machine()}
        print(json.dumps(about | dict(found.figures)))
    else:
        print(f"\n{found.text}")


if __name__ == "__main__":
    main()
