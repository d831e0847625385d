"""The ride as three pictures above each other: distances, latencies, failures."""

from pathlib import Path

from demos.experiment.ride import Ride, by_second, failures, switches

_MS = 1000


def plot(ride: Ride, path: Path) -> None:
    """Draw it into a file, in the format that its name says."""
    import matplotlib as mpl  # noqa: PLC0415  (takes a second, and only plots need it)

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "ride"  # so that the same ride makes the same file
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 3, 1), layout="constrained"
    )
    distances, latencies, failed = axes
    soft_ms, hard_ms = _ms(ride.road.soft_s), _ms(ride.road.hard_s)
    for number, stop in enumerate(ride.road.stops):
        colour = f"C{number}"
        seen = [d for d in ride.distances if d.stop == stop and d.link_s is not None]
        link = [_ms(d.link_s) for d in seen]
        distances.plot([d.at_s for d in seen], link, color=colour, label=f"{stop}: link")
        measured = [d for d in seen if d.measured_s is not None]
        distances.plot(
            [d.at_s for d in measured],
            [_ms(d.measured_s) for d in measured],
            color=colour,
            linestyle="none",
            marker=".",
            markersize=3,
            label=f"{stop}: measured by the bus",
        )
        served = [r for r in ride.readings if r.aggregator == stop]
        latencies.plot(
            [r.at_s for r in served],
            [_ms(r.latency_s) for r in served],
            color=colour,
            linestyle="none",
            marker=".",
            markersize=2,
            label=f"answered by {stop}",
        )
    distances.axhline(soft_ms, color="black", linestyle="--", linewidth=1)
    distances.text(0, soft_ms, " soft limit", va="bottom", fontsize="small")
    distances.axhline(hard_ms, color="black", linewidth=1)
    distances.text(0, hard_ms, " hard limit", va="bottom", fontsize="small")
    for switch in switches(ride):
        for each in axes:
            each.axvline(switch.at_s, color="grey", linestyle=":", linewidth=1)
        distances.text(
            switch.at_s, 0, f" {switch.old} → {switch.new}", va="bottom", fontsize="small"
        )
    counts = by_second(failures(ride), ride.road.length_s)
    failed.bar(range(len(counts)), counts, width=1, align="edge", color="C3")
    distances.set(ylabel="RTT from the bus, ms", ylim=(0, 2 * hard_ms))
    latencies.set(ylabel="a reading, ms", yscale="log")
    failed.set(xlabel="seconds", ylabel="failed in 1 s", ylim=(0, max(*counts, 1) * 1.1))
    distances.legend(loc="upper right", fontsize="small", ncols=len(ride.road.stops))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _ms(seconds: float | None) -> float:
    return (seconds or 0.0) * _MS
