"""The two sweeps as PUMA's paper draws them: seconds of a plain loop and of a map, log scale."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

WAYS: Mapping[str, str] = {"loop": "plain loop", "myxo": "myxo.map"}
"""What is written at the lines; those of other ways are maps so far away."""


def plot(
    sizes: Mapping[int, Mapping[str, list[float]]],
    values: Mapping[int, Mapping[str, list[float]]],
    path: Path,
) -> None:
    """Draw both sweeps into a file, in the format that its name says.

    Args:
        sizes: seconds of each run, by number of items and way.
        values: the same by the number whose factorial is taken.
        path: of the file.
    """
    import matplotlib as mpl  # noqa: PLC0415  (takes a second, and only plots need it)

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, sweep, what in ((left, sizes, "items"), (right, values, "factorial of")):
        for way in next(iter(sweep.values()), ()):
            name = WAYS.get(way, f"myxo.map, {way} away")
            middle = [median(runs[way]) for runs in sweep.values()]
            below = [m - min(runs[way]) for m, runs in zip(middle, sweep.values(), strict=True)]
            above = [max(runs[way]) - m for m, runs in zip(middle, sweep.values(), strict=True)]
            axes.errorbar(list(sweep), middle, [below, above], label=name, marker="o", capsize=3)
        axes.set(xlabel=what, ylabel="seconds", yscale="log")
        axes.legend()
    left.set(xscale="log")
    figure.savefig(path)
    plt.close(figure)
