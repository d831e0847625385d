"""A comparison as a drawing: mean delay by number of workers, a colour for each policy."""

from collections.abc import Sequence
from pathlib import Path

from bench.lab.errors import BadInput
from bench.lab.queueing.comparing import Row

_WIDTH = 0.8
"""Of a group of bars, of the distance between two groups."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw rows into a file, in the format that its name says.

    Raises:
        BadInput: it cannot be written, or its name says no format.
    """
    import matplotlib as mpl  # noqa: PLC0415  (takes a second, and only plots need it)

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    workers = list(dict.fromkeys(row.workers for row in rows))
    policies = list(dict.fromkeys(row.policy for row in rows))
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    width = _WIDTH / len(policies)
    for number, policy in enumerate(policies):
        theirs = [row.delay for row in rows if row.policy == policy]
        left = [at + (number - (len(policies) - 1) / 2) * width for at in range(len(workers))]
        halves = [one.half if one.half < float("inf") else 0.0 for one in theirs]
        means = [one.mean for one in theirs]
        axes.bar(left, means, width, yerr=halves, capsize=3, label=policy)
    axes.set_xticks(range(len(workers)), [str(count) for count in workers])
    axes.set(xlabel="workers", ylabel="mean delay in the queue")
    axes.legend()
    try:
        with mpl.rc_context({"svg.hashsalt": "myxo"}):  # the same drawing is the same file
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as exc:
        raise BadInput(f"{path} cannot be drawn: {exc}") from exc
    finally:
        plt.close(figure)
