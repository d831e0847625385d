"""What a load was, for people and for programs."""

from typing import Any

from bench.lab.loading.processes import Outcome
from bench.lab.loading.tally import QUANTILES, Latencies
from bench.stats import table

MOST_REASONS = 5
"""That a person is shown; a program gets all."""

TOO_BUSY = 0.9
"""From here on, latencies may be those of the load's own process."""


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return everything that was found; latencies in milliseconds, rates in requests a second."""
    tally = outcome.tally
    counts = {
        name: getattr(tally, name) for name in ("asked", "sent", "answered", "failed", "unsent")
    }
    return counts | {
        "length_s": outcome.length_s,
        "rate": tally.rate,
        "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
        "reasons": dict(tally.reasons.most_common()),
        "latest_ms": tally.late_s * 1000,
        "intended_ms": tally.intended.figures(),
        "service_ms": tally.service.figures(),
        "lost_traces": outcome.lost_traces,
        "busy": outcome.busy,
    }


def text(outcome: Outcome) -> str:
    """Return a few lines and a table."""
    tally = outcome.tally
    head = (
        f"asked {tally.asked:,} · sent {tally.sent:,} · failed {tally.failed:,} · "
        f"not sent {tally.unsent:,} · {tally.rate:,.1f} requests/s"
    )
    lines = [head]
    lines += [f"  {n:,} × {why}" for why, n in tally.reasons.most_common(MOST_REASONS)]
    lines += [f"  {n:,} × status {status}" for status, n in sorted(tally.statuses.items())]
    if outcome.lost_traces:
        lines.append(f"  {outcome.lost_traces:,} traces are lost: the file was too slow")
    if outcome.busy > TOO_BUSY:
        lines.append(f"  a process was busy {outcome.busy:.0%} of the time: try more --processes")
    return "\n".join([*lines, "", _latencies(tally.intended, tally.service)])


def _latencies(intended: Latencies, service: Latencies) -> str:
    columns = ["latency, ms", *(f"p{percent:g}" for percent in QUANTILES), "max"]
    rows = [
        [name, *(f"{value:,.3f}" for value in latencies.figures().values())]
        for name, latencies in (
            ("from when it was due", intended),
            ("from when it was sent", service),
        )
    ]
    return table(columns, rows)
