"""How far the machine that is chosen for a new instance is, beside the nearest one with room.

In the simulator (`placement_sim.py`), hundreds of machines with RTTs that callers measured, that
they estimate, or mixed as the daemons of a network of that size have them; and on the host lab
(`placement_lab.py`), a few hosts on long links. Both without and with load.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from bench import placement_lab, placement_sim
from bench.command import Report, run
from bench.placement_sim import Network, Placed
from bench.stats import quantile, table

SEED = 1
PARTS = (0.5, 0.99)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        LabFailed, NetworkFailed: it could not be measured.
    """
    simulated = _simulated(placement_sim.QUICK if quick else placement_sim.FULL)
    lab = placement_lab.placed(placement_lab.QUICK if quick else placement_lab.FULL)
    ratios = {name: row.ratios for name, row in simulated.items()}
    ratios |= {"lab": lab.idle, "lab_load": lab.load}
    return _report(ratios, simulated, lab.failed, quick=quick)


def _simulated(size: placement_sim.Size) -> dict[str, Placed]:
    """Return what became of each row's requests, by the suffix of its keys."""
    network = Network(size, Random(SEED))  # noqa: S311  (a simulation's seed keeps no secret)
    kinds = {"": network.known, "_measured": network.measured, "_estimated": network.estimated}
    return {
        f"{kind}{suffix}".removeprefix("_"): placement_sim.placed(
            network,
            knows,
            load=bool(suffix),
            rng=Random(SEED),  # noqa: S311
        )
        for kind, knows in kinds.items()
        for suffix in ("", "_load")
    }


_TITLES = {
    "": "simulator, RTTs as daemons have them",
    "load": "the same, with load",
    "measured": "simulator, all RTTs measured",
    "measured_load": "the same, with load",
    "estimated": "simulator, all RTTs estimated",
    "estimated_load": "the same, with load",
    "lab": "host lab, real daemons",
    "lab_load": "the same, with load",
}


def _report(
    ratios: Mapping[str, Sequence[float]],
    simulated: Mapping[str, Placed],
    lab_failed: int,
    *,
    quick: bool,
) -> Report:
    size = placement_sim.QUICK if quick else placement_sim.FULL
    figures: dict[str, Any] = {"machines": size.machines, "lab_failed": lab_failed}
    rows = []
    for name, found in ratios.items():
        key = f"_{name}" if name else ""
        p50, p99 = (quantile(found, p) for p in PARTS)
        figures |= {f"rtt_ratio_p50{key}": p50, f"rtt_ratio_p99{key}": p99}
        best = sum(ratio <= 1.0 for ratio in found) / len(found)
        asked = simulated[name].asked if name in simulated else ()
        more = f"{sum(asked) / len(asked):.2f}" if asked else ""
        rows.append(
            [_TITLES[name], str(len(found)), f"{p50:.2f}", f"{p99:.2f}", f"{best:.0%}", more]
        )
    figures["nowhere"] = sum(row.nowhere for row in simulated.values())
    columns = ["RTT of the chosen host ÷ of the best feasible", "starts", "p50", "p99", "best"]
    text = table([*columns, "asked"], rows)
    missed = f"{figures['nowhere']} simulated requests found no room though there was some, "
    return Report(figures, f"{text}\n\n{missed}{lab_failed} on the lab were not answered")


if __name__ == "__main__":
    run("placement", "The chosen host's RTT beside that of the best feasible one.", measure)
