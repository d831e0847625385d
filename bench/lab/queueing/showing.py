"""Figures, comparisons and results as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.lab.queueing.closed_forms import Expected
from bench.lab.queueing.comparing import Row
from bench.lab.queueing.figures import Figures
from bench.lab.queueing.intervals import Interval
from bench.lab.queueing.results import RunResult, WorkerResult
from bench.stats import table

COLUMNS = ["avg delay", "avg number", "utilisation", "end", "p50", "p95", "p99"]


def figures_text(found: Figures, expected: Expected | None) -> str:
    """Return the four textbook figures and the quantiles, with what theory expects beside them."""
    theory = asdict(expected) if expected else {}
    named = [
        ("Average delay in queue", found.average_delay, theory.get("delay")),
        ("Average number in queue", found.average_number, theory.get("number")),
        ("Server utilization", found.utilisation, theory.get("utilisation")),
        ("Time simulation ended", found.end, None),
        ("Delay, p50", found.p50, theory.get("p50")),
        ("Delay, p95", found.p95, theory.get("p95")),
        ("Delay, p99", found.p99, theory.get("p99")),
    ]
    rows = [
        [name, f"{value:,.3f}", "" if in_theory is None else f"{in_theory:,.3f}"]
        for name, value, in_theory in named
    ]
    return table(["", "simulated", "expected"], rows)


def workers_text(results: Sequence[WorkerResult], whole: Figures | None = None) -> str:
    """Return a row for each worker, and one for all of them."""
    total = sum(one.share for one in results) or 1
    where = any(one.host for one in results)
    head = ["worker", "requests", "share", "mean gap", *COLUMNS, *(["ran on"] if where else [])]
    rows = [
        [
            str(one.worker),
            f"{one.share:,}",
            f"{one.share / total:.1%}",
            f"{one.mean_gap:.4f}",
            *_cells(one.figures),
            *([one.host] if where else []),
        ]
        for one in results
    ]
    if whole is not None:
        rows.append(["all", f"{total:,}", "100.0%", "", *_cells(whole), *([""] if where else [])])
    return table(head, rows)


def _cells(found: Figures) -> list[str]:
    return [
        f"{found.average_delay:.6f}",
        f"{found.average_number:.6f}",
        f"{found.utilisation:.6f}",
        f"{found.end:.3f}",
        *(f"{delay:.4f}" for delay in (found.p50, found.p95, found.p99)),
    ]


def run_text(run: RunResult) -> str:
    """Return a run that was kept, with what was asked for above it."""
    about = ", ".join(f"{name} {value}" for name, value in run.about.items())
    return f"{run.name}: {about}\n\n{workers_text(run.workers)}"


def comparison_text(rows: Sequence[Row]) -> str:
    """Return a row for each number of workers and policy."""
    head = ["workers", "policy", "avg delay", "− first policy's", "p95", "p99"]
    head += ["avg number", "utilisation", "busiest ÷ fair"]
    cells = [
        [
            str(row.workers),
            row.policy,
            row.delay.text(4),
            "" if row.over_first is None else row.over_first.text(4),
            row.p95.text(3),
            row.p99.text(3),
            row.number.text(4),
            row.utilisation.text(3),
            row.busiest.text(3),
        ]
        for row in rows
    ]
    return table(head, cells)


def comparison_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the same for programs; `half` is null where one run says nothing of the spread."""
    return [
        {
            name: _interval_json(value) if isinstance(value, Interval) else value
            for name in row.__slots__
            for value in [getattr(row, name)]
        }
        for row in rows
    ]


def _interval_json(found: Interval) -> Mapping[str, float | None]:
    return {"mean": found.mean, "half": None if found.half == float("inf") else found.half}
