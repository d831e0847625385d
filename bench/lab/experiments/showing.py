"""Experiments as text: tables for people, JSON for programs. Pure."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.lab.experiments.experiments import Account
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.summary import Summary

_MISSING = "-"


def table_of(experiments: Sequence[Experiment]) -> str:
    """Return a line for each experiment."""
    rows = [
        (e.exp_id, e.name, e.creator, e.status, _time(e.created), _seconds(_length(e)), e.error)
        for e in experiments
    ]
    return _aligned(("ID", "NAME", "CREATOR", "STATUS", "CREATED", "LENGTH", "ERROR"), rows)


def comparison_of(accounts: Sequence[Account]) -> str:
    """Return a line of figures for each experiment."""
    rows = [
        (
            account.experiment.exp_id,
            account.experiment.status,
            str(account.summary.requests),
            str(account.summary.failed),
            f"{account.summary.rate:.1f}",
            *(_ms(value) for value in _latencies(account.summary)),
        )
        for account in accounts
    ]
    heads = ("ID", "STATUS", "REQUESTS", "FAILED", "RATE/S", "MEAN", "P50", "P95", "P99", "LONGEST")
    return _aligned(heads, rows)


def account_of(account: Account) -> str:
    """Return all that is said of one experiment."""
    e, task = account.experiment, account.task
    lines = [
        f"{e.exp_id}: {e.name}, by {e.creator}",
        f"{e.status}" + (f": {e.error}" if e.error else ""),
        f"created {_time(e.created)}, started {_time(e.start)}, ended {_time(e.end)}",
        "rows: " + ", ".join(f"{name} {count}" for name, count in account.rows.items()),
        "",
        comparison_of([account]),
    ]
    if task.instructions is not None:
        lines += ["", task.instructions.rstrip()]
    return "\n".join(lines)


def as_json(value: Experiment | Account) -> Mapping[str, Any]:
    """Return what JSON has of an experiment."""
    if isinstance(value, Experiment):
        return asdict(value)
    return {
        **asdict(value.experiment),
        **asdict(value.task),
        "summary": asdict(value.summary),
        "rows": dict(value.rows),
    }


def _latencies(summary: Summary) -> Iterable[float | None]:
    return summary.mean, summary.p50, summary.p95, summary.p99, summary.longest


def _length(experiment: Experiment) -> float | None:
    if experiment.start is None or experiment.end is None:
        return None
    return experiment.end - experiment.start


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _MISSING
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _seconds(seconds: float | None) -> str:
    return _MISSING if seconds is None else f"{seconds:.1f} s"


def _ms(seconds: float | None) -> str:
    return _MISSING if seconds is None else f"{seconds * 1000:.2f} ms"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    )
