"""A figure of experiments: when requests were due, and how long each took from then.

Usage: python -m demos.classify.figure [--output FILE.svg] ID...
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from bench.lab.frames import experiments, traces

QUANTILES = [0.5, 0.95, 0.99]


def latencies(exp_id: str) -> pd.DataFrame:
    """Return a row a request: seconds since the first was due, and milliseconds until it was done.

    Requests that got no answer, or one that was no success, are left out.
    """
    rows = traces(exp_id)
    rows = rows[rows.status.between(200, 299)]
    due = rows.created - rows.created.min()
    return pd.DataFrame({"due_s": due, "took_ms": (rows.done - rows.created) * 1000})


def draw(found: dict[str, pd.DataFrame], output: Path) -> None:
    """Draw each experiment's requests over time, and what share took at most how long."""
    mpl.rcParams["svg.hashsalt"] = "classify"  # the same data make the same file
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    over_time, shares = figure.subplots(1, 2)
    for name, rows in found.items():
        over_time.plot(rows.due_s, rows.took_ms, ".", markersize=3, label=name)
        ordered = rows.took_ms.sort_values()
        shares.plot(ordered, [(n + 1) / len(ordered) for n in range(len(ordered))], label=name)
    over_time.set(xlabel="due after, s", ylabel="took, ms", ylim=(0, None))
    shares.set(xlabel="took at most, ms", ylabel="share of requests", xlim=(0, None))
    shares.legend()
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description="draws the latencies of experiments")
    parser.add_argument("--output", "-o", type=Path, default=Path("latencies.svg"))
    parser.add_argument("ids", nargs="+", metavar="ID")
    options = parser.parse_args()
    names = experiments().set_index("exp_id").name
    found = {names[exp_id]: latencies(exp_id) for exp_id in options.ids}
    table = {name: rows.took_ms.quantile(QUANTILES).round(1) for name, rows in found.items()}
    print(pd.DataFrame(table).rename(lambda share: f"p{share * 100:g}, ms").T)
    draw(found, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
