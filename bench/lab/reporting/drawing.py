"""The report's pictures: bars with confidence intervals, and how many instances there were when."""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from bench.lab.queueing.intervals import Interval
from bench.lab.reporting.figures import (
    DEVIATION,
    FAILED,
    LATENCIES,
    PAUSED,
    RUNNING,
    STARTS,
    WAITED,
    Measure,
    Row,
    Run,
)

_BARS: Sequence[tuple[str, str, Sequence[Measure]]] = (
    ("latency", "latency from when a request was due, ms", LATENCIES),
    ("fairness", "share off by, of a fair share", (DEVIATION,)),
    ("cost", "instance-seconds of a run", (RUNNING, PAUSED)),
    ("cold-starts", "in a run", (STARTS, WAITED)),
    ("failures", "requests of a run", (FAILED,)),
)
_WIDTH = 0.8
"""Of a group of bars, of the distance between two groups."""


def pictures(
    rows: Sequence[Row], runs: Sequence[Run], duration_s: float
) -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG text of each picture."""
    for name, label, measures in _BARS:
        yield name, _drawn(partial(_bars, rows, label, measures), len(rows))
    yield "instances", _drawn(partial(_counts, runs, duration_s), 1)


def _drawn(draw: Callable[[Any], None], groups: int) -> str:
    import matplotlib as mpl  # noqa: PLC0415  (takes a second, and only plots need it)

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(max(7.0, 1.6 * groups), 3.6), layout="constrained")
    try:
        draw(axes)
        text = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "myxo", "svg.fonttype": "none"}):
            figure.savefig(text, format="svg", metadata={"Date": None})
    finally:
        plt.close(figure)
    drawing = text.getvalue()
    return drawing[drawing.index("<svg") :]  # without the prologue, so that a page can hold it


def _bars(rows: Sequence[Row], label: str, measures: Sequence[Measure], axes: Any) -> None:
    width = _WIDTH / len(measures)
    for number, measure in enumerate(measures):
        offset = (number - (len(measures) - 1) / 2) * width
        values = [row.values[measure.key] for row in rows]
        means = [value.mean for value in values]
        axes.bar(
            [at + offset for at in range(len(rows))],
            means,
            width,
            yerr=[[min(_half(v), v.mean) for v in values], [_half(v) for v in values]],
            capsize=3,
            label=measure.title,
        )
    axes.set_xticks(range(len(rows)), [_label(row, rows) for row in rows])
    axes.set(ylabel=label)
    if len(measures) > 1:
        axes.legend()


def _half(value: Interval) -> float:
    return value.half if value.half < float("inf") else 0.0


def _label(row: Row, rows: Sequence[Row]) -> str:
    several = len({one.service for one in rows}) > 1
    return row.variant.replace(", ", "\n") + (f"\n{row.service}" if several else "")


def _counts(runs: Sequence[Run], duration_s: float, axes: Any) -> None:
    """Draw how many instances ran when, in the first run of each variant."""
    for run in runs:
        if run.run == 1:
            times, counts = zip(*run.counts, (duration_s, run.counts[-1][1]), strict=True)
            axes.step(times, counts, where="post", label=f"{run.variant} ({run.service})")
    axes.set(xlabel="seconds of run 1", ylabel="running instances")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")
