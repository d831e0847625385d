"""What every benchmark's command line has: `--quick`, `--json`, a table, an exit code."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog

from bench.backend import NoEngine
from bench.client import AnswerFailed
from bench.errors import HopMissing, NetworkFailed
from bench.machine import machine, machine_line
from bench.netlab.errors import LabFailed


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found.

    Attributes:
        figures: by key, for programs.
        text: tables, for people.
    """

    figures: Mapping[str, Any]
    text: str


Measure = Callable[[bool], Report]
"""Takes whether to be quick: fewer samples, below 50 s in all."""

FAILURES = (NoEngine, AnswerFailed, HopMissing, NetworkFailed, LabFailed)


def measured(measure: Measure, quick: bool) -> Report:
    """Return what `measure` returns; raise what it failed with bare, not in a nursery's group.

    Raises:
        NoEngine, AnswerFailed, HopMissing, NetworkFailed, LabFailed: it could not be measured.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        return measure(quick)
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            failure = failure.exceptions[0]
        if isinstance(failure, FAILURES):
            raise failure from None
        raise


def run(
    name: str,
    description: str,
    measure: Measure,
    *,
    runtimes: Mapping[str, Measure] = MappingProxyType({}),
    parts: Mapping[str, Measure] = MappingProxyType({}),
) -> None:
    """Run the benchmark `name` as its command line says; exit with 1 if it cannot be measured.

    Args:
        name: the module's.
        description: for `--help`.
        measure: with the runtime that it is meant for, Docker.
        runtimes: by the name of another runtime, how to measure with that.
        parts: by the name of a part that can be measured alone, how.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="fewer samples, below 50 s")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    if runtimes:
        parser.add_argument("--runtime", choices=["docker", *runtimes], default="docker")
    if parts:
        parser.add_argument("--only", choices=list(parts), help="measure this part alone")
    options = parser.parse_args()
    measure = parts.get(getattr(options, "only", None) or "", measure)
    measure = runtimes.get(getattr(options, "runtime", ""), measure)
    about = {"bench": name, "quick": options.quick, "machine": machine()}
    if not options.json:
        print(machine_line())
    try:
        report = measured(measure, options.quick)
    except FAILURES as exc:
        sys.exit(f"bench.{name}: {exc}")
    if options.json:
        print(json.dumps(about | dict(report.figures)))
    else:
        print(f"\n{report.text}")
