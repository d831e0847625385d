"""A program as one process and as Myxo's services, side by side under loads that change.

Both programs of `demos/dialog` run on this machine and take turns: a load that rises in steps, one
with bursts, and one during which an instance is killed. Each service is asked at a fixed rate, free
of coordinated omission, for the same at both.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path
from statistics import median
from typing import Any

from bench.adapting import IN_TIME_S, adapted_s, availability, share_in_time
from bench.client import OK
from bench.command import Report, run
from bench.dialog_phases import Phase, Played, Wave, bursts, killing, played, rising
from bench.dialog_programs import PATHS, Program, await_all, monolith, ported
from bench.open_load import Sent
from bench.stats import quantile, table

QUANTILES = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        phases: the loads.
        rounds: in each of which either program gets each of them once.
    """

    phases: Sequence[Phase]
    rounds: int


FULL = Plan(
    (
        rising(steps=4, step_s=5.0, rate=50),
        bursts(count=4, every_s=5.0, burst=Wave(1.0, 1.0, 200), rate=25),
        killing(at_s=3.0, lasts_s=15.0, rate=50),
    ),
    rounds=3,
)
QUICK = Plan(
    (
        rising(steps=3, step_s=1.5, rate=50),
        bursts(count=2, every_s=2.0, burst=Wave(0.5, 0.5, 200), rate=25),
        killing(at_s=1.0, lasts_s=5.0, rate=50),
    ),
    rounds=1,
)


@dataclass(slots=True)
class Found:
    """What a program did with one load, over all rounds.

    Attributes:
        sent: the requests, by service.
        adapted: seconds that it took to adapt to each change; `inf` where it did not in time.
    """

    sent: dict[str, list[Sent]] = field(default_factory=lambda: {name: [] for name in PATHS})
    adapted: list[float] = field(default_factory=list)

    def take(self, phase: Played) -> None:
        """Take in one round."""
        for service, sent in phase.sent.items():
            self.sent[service] += sent
        together = [one for sent in phase.sent.values() for one in sent]
        self.adapted += [adapted_s(together, changed, until) for changed, until in phase.spans]

    @property
    def together(self) -> list[Sent]:
        """The requests to all services."""
        return [one for sent in self.sent.values() for one in sent]


Results = Mapping[str, Mapping[str, Found]]
"""By the key of the load and the name of the program."""


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        HopMissing, AnswerFailed, NetworkFailed: it could not be measured.
    """
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="myxo-bench-dialog-") as name:
        folder = Path(name)
        with monolith(folder) as one, ported(folder) as other:
            return report(plan.phases, compared(plan, {"monolith": one, "port": other}))


def compared(plan: Plan, programs: Mapping[str, Program]) -> Results:
    """Return what each program did with each load; they take turns.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    found = {phase.key: {name: Found() for name in programs} for phase in plan.phases}
    for _ in range(plan.rounds):
        for phase in plan.phases:
            for name, program in programs.items():
                found[phase.key][name].take(played(phase, program.urls, program.kill))
                await_all(program)
    return found


def report(phases: Sequence[Phase], found: Results) -> Report:
    """Return the figures and tables of what was found."""
    figures: dict[str, Any] = {"in_time_ms": IN_TIME_S * 1000}
    for key, programs in found.items():
        for name, of_program in programs.items():
            figures |= {f"{name}_{key}_{what}": n for what, n in _figures(of_program).items()}
        for service in PATHS:
            ratios = speedups(programs["monolith"].sent[service], programs["port"].sent[service])
            figures |= {f"{service}_{key}_{part}_speedup": n for part, n in ratios.items()}
    return Report(figures, f"{_of_programs(phases, figures)}\n\n{_of_services(phases, figures)}")


def speedups(monoliths: Sequence[Sent], ports: Sequence[Sent]) -> dict[str, float | None]:
    """Return the monolith's latency ÷ the port's for each quantile; above 1 the port is faster.

    Of what was answered 200; None where either answered nothing.
    """
    one, other = _latencies(monoliths), _latencies(ports)
    return {
        part: quantile(one, p) / quantile(other, p) if one and other else None
        for part, p in QUANTILES.items()
    }


def _figures(found: Found) -> dict[str, float | None]:
    """Return a program's figures under one load; see the page."""
    latencies, together = _latencies(found.together), found.together
    return {
        **{
            f"{part}_ms": quantile(latencies, p) * 1000 if latencies else None
            for part, p in QUANTILES.items()
        },
        "requests": len(together),
        "availability": availability(together),
        "in_time": share_in_time(together),
        "adapt_s": _finite(median(found.adapted)),
        "adapt_max_s": _finite(max(found.adapted)),
    }


def _latencies(sent: Sequence[Sent]) -> list[float]:
    return [one.latency_s for one in sent if one.status == OK]


def _finite(seconds: float) -> float | None:
    """Return `seconds` as JSON can say them."""
    return None if isinf(seconds) else seconds


def _of_programs(phases: Sequence[Phase], figures: Mapping[str, Any]) -> str:
    columns = ["load", "p50, ms", "p99, ms", "answered", f"within {IN_TIME_S * 1000:.0f} ms"]
    rows = []
    for phase in phases:
        for name in ("monolith", "port"):
            key = f"{name}_{phase.key}"
            row = [f"{phase.name}: {name}"]
            row += [_number(figures[f"{key}_{part}_ms"], 1) for part in QUANTILES]
            row += [f"{figures[f'{key}_{share}']:.2%}" for share in ("availability", "in_time")]
            row += [_seconds(figures[f"{key}_{time}_s"]) for time in ("adapt", "adapt_max")]
            rows.append(row)
    return table([*columns, "to adapt, s", "longest"], rows)


def _of_services(phases: Sequence[Phase], figures: Mapping[str, Any]) -> str:
    columns = ["monolith's latency ÷ port's"]
    columns += [f"{phase.name}: {part}" for phase in phases for part in QUANTILES]
    rows = [
        [
            service,
            *(
                _number(figures[f"{service}_{phase.key}_{part}_speedup"], 2)
                for phase in phases
                for part in QUANTILES
            ),
        ]
        for service in PATHS
    ]
    return table(columns, rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    run("dialog", "A monolith and the same program as services, as their load changes.", measure)
