"""What is said of what was found: figures for programs, tables for people."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.map import figures as f
from bench.map.beside import ColdStarts
from bench.map.plan import ARRAY_MIB, TROUBLED_WORKERS, Found, Plan, Sweep
from bench.map.tasks import SLOWER
from bench.stats import spread, table


def way_of(rtt_ms: int) -> str:
    """Return what the contender is called whose workers are so far away."""
    return f"{rtt_ms} ms"


def figures_of(found: Found, plan: Plan) -> dict[str, Any]:
    """Return the figures by key."""
    said: dict[str, Any] = {"workers": plan.workers, "runs": plan.runs}
    if found.noop:
        said |= _noop_figures(found)
    if found.speed:
        said |= _speed_figures(found)
    if plan.links:
        said |= _link_figures(found, plan)
    if found.arrays:
        said["arrays_ratio_ray"] = f.ratio(found.arrays, "myxo", "ray")
        said["array_copies"] = found.copies
    if found.memory:
        said["flow_items"] = plan.flow_items
        said["flow_growth_mib"] = found.memory["most_mib"] - found.memory["settled_mib"]
    if found.paced:
        said |= _trouble_figures(found, plan)
    if found.colds is not None:
        said |= _cold_figures(found.colds)
    return said


def _speed_figures(found: Found) -> dict[str, Any]:
    return {
        "speedup": f.ratio(found.speed, "loop", "myxo"),
        "speedup_pool": f.ratio(found.speed, "loop", "pool"),
        "ratio_pool": f.ratio(found.speed, "pool", "myxo"),
        "speed_runs": len(found.speed["myxo"]),
        "break_even_items": f.break_even(_medians(found.sizes)),
        "break_even_value": f.break_even(_medians(found.values)),
        "sizes_s": _by_way(found.sizes),
        "values_s": _by_way(found.values),
    }


def _link_figures(found: Found, plan: Plan) -> dict[str, Any]:
    said: dict[str, Any] = {"sizes_s": _by_way(found.sizes), "values_s": _by_way(found.values)}
    for rtt in (0, *plan.links):
        way = way_of(rtt)
        said[f"break_even_items_{rtt}ms"] = f.break_even(_medians(found.sizes, way))
        said[f"break_even_value_{rtt}ms"] = f.break_even(_medians(found.values, way))
    for rtt in plan.links:
        said[f"penalty_items_{rtt}ms_s"] = _penalties(found.sizes, rtt)
        said[f"penalty_value_{rtt}ms_s"] = _penalties(found.values, rtt)
    return said


def _penalties(sweep: Sweep, rtt_ms: int) -> dict[str, float]:
    """Return how many seconds longer it takes over a link than over none."""
    return {
        str(at): median(taken[way_of(rtt_ms)]) - median(taken[way_of(0)])
        for at, taken in sweep.items()
    }


def _cold_figures(colds: ColdStarts) -> dict[str, Any]:
    return {
        "cold_alone_ms": median(colds.alone) * 1000,
        "cold_beside_map_ms": median(colds.beside_map) * 1000,
        "cold_beside_map_max_ms": max(colds.beside_map) * 1000,
        "cold_starts": len(colds.beside_map),
        "cold_map_items": colds.items,
    }


def _noop_figures(found: Found) -> dict[str, Any]:
    peer = f.best_peer(found.noop)
    own_s = median(found.noop["myxo"])
    return {
        "noop_ratio_best_peer": f.ratio(found.noop, "myxo", peer),
        "noop_runs": len(found.noop["myxo"]),
        "noop_best_peer": peer,
        "noop_ratio_ray": own_s / median(found.each["ray"]),
        "noop_ratio_dask": own_s / median(found.each["dask"]),
        "noop_us": {name: median(taken) * 1e6 for name, taken in found.noop.items()},
        "noop_each_us": {name: median(taken) * 1e6 for name, taken in found.each.items()},
        "noop_chunks": found.chunks,
    }


def _trouble_figures(found: Found, plan: Plan) -> dict[str, Any]:
    speeds = [1.0] * (TROUBLED_WORKERS - 1) + [1 / SLOWER]
    ideal_s = f.ideal_s(plan.paced_items, plan.pause_s, speeds)
    return {
        "one_slow_ratio": median(found.paced["slow"]) / ideal_s,
        "killed_ratio": f.ratio(found.paced, "killed", "undisturbed"),
        "paced_workers_least": min(found.paced_workers),
    }


def _medians(sweep: Sweep, way: str = "myxo") -> list[tuple[float, float, float]]:
    return [(at, median(taken["loop"]), median(taken[way])) for at, taken in sweep.items()]


def _by_way(sweep: Sweep) -> dict[str, dict[str, float]]:
    return {
        str(at): {way: median(runs) for way, runs in taken.items()} for at, taken in sweep.items()
    }


def text_of(found: Found, plan: Plan) -> str:
    """Return the tables."""
    tables = []
    if found.noop:
        tables.append(_noop_table(found, plan))
    if found.speed:
        tables.append(_speed_table(found, plan))
    if found.sizes:
        ways = [way_of(rtt) for rtt in (0, *plan.links)] if plan.links else ["myxo"]
        tables.append(_sweep_table("items of factorial 1000, s", found.sizes, ways))
        what = f"{plan.values_items:,} factorials of, s"
        tables.append(_sweep_table(what, found.values, ways))
    if found.paced or found.arrays or found.memory:
        tables.append(_trouble_table(found, plan))
    if found.colds is not None:
        tables.append(_cold_table(found.colds, plan))
    return "\n\n".join(tables)


def _noop_table(found: Found, plan: Plan) -> str:
    own_s = median(found.noop["myxo"])
    rows = [
        [
            _in_chunks(name, found.chunks[name]),
            spread([s * 1e6 for s in taken]).text(2),
            "" if name == "myxo" else f"{own_s / median(taken):.2f}",
        ]
        for name, taken in found.noop.items()
    ]
    rows += [
        [
            f"{name}, item by item",
            spread([s * 1e6 for s in taken]).text(1),
            f"{own_s / median(taken):.3f}",
        ]
        for name, taken in found.each.items()
    ]
    return table([f"{plan.noop_items:,} items that cost nothing", "µs an item", "Myxo ÷ it"], rows)


def _in_chunks(name: str, chunk: int | None) -> str:
    return f"{name}, chunks by itself" if chunk is None else f"{name}, chunks of {chunk:,}"


def _speed_table(found: Found, plan: Plan) -> str:
    loop_s = median(found.speed["loop"])
    rows = [
        [name, spread(taken).text(2), f"{loop_s / median(taken):.2f}"]
        for name, taken in found.speed.items()
    ]
    columns = [f"{plan.speed_items:,} factorials of 1000, {plan.workers} workers", "s", "speed-up"]
    return table(columns, rows)


def _sweep_table(what: str, sweep: Sweep, ways: Sequence[str]) -> str:
    rows = [
        [
            f"{at:,}",
            spread(taken["loop"]).text(3),
            *(_beside_loop(taken, way) for way in ways),
        ]
        for at, taken in sweep.items()
    ]
    said = "\n".join(f"{_named(way)} is no slower: {_even(sweep, way)}" for way in ways)
    columns = [what, "plain loop", *(f"{_named(way)} (loop ÷ it)" for way in ways)]
    return f"{table(columns, rows)}\n\n{said}"


def _named(way: str) -> str:
    return "Myxo" if way == "myxo" else f"Myxo, {way} away"


def _beside_loop(taken: f.Samples, way: str) -> str:
    return f"{spread(taken[way]).text(3)} ({f.ratio(taken, 'loop', way):.2f})"


def _even(sweep: Sweep, way: str) -> str:
    even = f.break_even(_medians(sweep, way))
    return "never" if even is None else f"from {even:,.0f} on"


def _cold_table(colds: ColdStarts, plan: Plan) -> str:
    kinds = {"no worker": colds.alone, "a running map's workers in all its room": colds.beside_map}
    rows = [
        [what, str(len(taken)), spread([s * 1000 for s in taken]).text(0)]
        for what, taken in kinds.items()
    ]
    columns = [f"cold start on a machine with room for {plan.workers} workers, and", "starts", "ms"]
    return f"{table(columns, rows)}\n\nThe map computed {colds.items:,} items meanwhile."


def _trouble_table(found: Found, plan: Plan) -> str:
    said = figures_of(found, plan)
    rows = []
    if found.paced:
        rows += [
            ["all alike, s", spread(found.paced["undisturbed"]).text(2), ""],
            [
                "one of four 10 × slower, s",
                spread(found.paced["slow"]).text(2),
                f"{said['one_slow_ratio']:.2f} of the ideal",
            ],
            [
                "one of four killed at half time, s",
                spread(found.paced["killed"]).text(2),
                f"{said['killed_ratio']:.2f} of all alike",
            ],
        ]
    if held := found.memory:
        what = f"memory of the caller over {plan.flow_items:,} items as completed, MiB"
        rows.append([what, f"{held['settled_mib']:.1f}, then up to {held['most_mib']:.1f}", ""])
    if found.arrays:
        what = f"{plan.arrays} arrays of {ARRAY_MIB} MiB, s"
        share = f"{said['arrays_ratio_ray']:.2f} of Ray's"
        rows.append([what, spread(found.arrays["myxo"]).text(2), share])
        ways = ", ".join(f"{times:.2f} {way}" for way, times in found.copies.items())
        rows.append(["copies of such an array beyond the kernel's", ways, ""])
    what = f"{plan.paced_items:,} items of {plan.pause_s * 1000:g} ms"
    least = said.get("paced_workers_least", TROUBLED_WORKERS)
    fewer = "" if least >= TROUBLED_WORKERS else f"\n\nin one of these only {least} took part"
    return table([what, "", ""], rows) + fewer
