"""The benchmark: who is asked for what, in which order, and the tables of what was found."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.command import Report
from bench.map import figures as f
from bench.map.contender import Contender, contender
from bench.map.places import founded, joined
from bench.map.tasks import SLOWER
from bench.stats import spread, table

SPEED_VALUE = 1000
VALUES_ITEMS, VALUES_ITEMS_QUICK = 100_000, 1_000
TROUBLED_WORKERS = 4
ARRAY_MIB = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: items of PUMA's first sweep, each the factorial of 1000.
        values: whose factorials its second sweep takes, over `values_items` items.
        noop_items: items that cost nothing.
        each_s: seconds for items that are submitted one by one.
        speed_items: factorials of the speed-up.
        paced_items, pause_s: of the runs with a slow or a killed worker.
        flow_items: taken as they are completed.
        arrays: of 16 MiB each.
        chunk: items of a message of Myxo's, or None for its own choice.
        bootstrap: of a network to map on instead of one on this machine.
    """

    sizes: Sequence[int] = (100, 1_000, 10_000, 100_000, 1_000_000)
    values: Sequence[int] = (100, 500, 1000, 1500)
    values_items: int = VALUES_ITEMS
    noop_items: int = 100_000
    each_s: float = 5.0
    speed_items: int = 10_000
    paced_items: int = 2_000
    pause_s: float = 0.01
    flow_items: int = 1_000_000
    arrays: int = 64
    workers: int = 2
    runs: int = 5
    chunk: int | None = None
    bootstrap: str | None = None


FULL = Plan()
QUICK = Plan(
    sizes=(100, 1_000),
    values=(100, 1000),
    values_items=VALUES_ITEMS_QUICK,
    each_s=0.5,
    paced_items=400,
    flow_items=200_000,
    arrays=8,
    runs=2,
)

Sweep = dict[int, dict[str, list[float]]]


@dataclass(slots=True)
class Found:
    """Seconds of each run, by contender.

    Attributes:
        noop: an item, in chunks.
        each: an item, submitted by itself.
        chunks: the size that was best, by contender; None is its own choice.
        speed: `speed_items` factorials of 1000.
        sizes, values: the sweeps.
        arrays: all of them.
        paced: with four workers: `undisturbed`, `slow`, `killed`.
        paced_workers: how many took part in each of these.
        memory: of the caller, see `jobs.flow`.
    """

    noop: dict[str, list[float]] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    chunks: dict[str, int | None] = field(default_factory=dict)
    speed: dict[str, list[float]] = field(default_factory=dict)
    sizes: Sweep = field(default_factory=dict)
    values: Sweep = field(default_factory=dict)
    arrays: dict[str, list[float]] = field(default_factory=dict)
    paced: dict[str, list[float]] = field(default_factory=dict)
    paced_workers: list[int] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    return report(QUICK if quick else FULL)[0]


def report(plan: Plan) -> tuple[Report, Found]:
    """Return all figures of a plan, and what they are made of.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    found = Found()
    with tempfile.TemporaryDirectory(prefix="myxo-bench-map-") as name:
        if plan.bootstrap is not None:
            with _contenders(("loop", "myxo", "pool"), plan, Path(name)) as those:
                _measure_sweeps(found, those, plan)
        else:
            with _contenders(("loop", "myxo", "pool", *f.PEERS), plan, Path(name)) as those:
                _measure_noops(found, those, plan)
                _measure_sweeps(found, those, plan)
                _measure_arrays(found, those, plan)
                found.memory = those["myxo"].ask("flow", items=plan.flow_items)
            with _contenders(("myxo",), plan, Path(name), TROUBLED_WORKERS) as those:
                _measure_trouble(found, those["myxo"], plan)
    return Report(figures_of(found, plan), text_of(found, plan)), found


@contextmanager
def _contenders(
    names: Sequence[str], plan: Plan, folder: Path, workers: int | None = None
) -> Iterator[dict[str, Contender]]:
    count = workers or plan.workers
    place = founded(count) if plan.bootstrap is None else joined(plan.bootstrap)
    with ExitStack() as stack:
        environment = stack.enter_context(place)
        yield {
            name: stack.enter_context(contender(name, count, folder, environment)) for name in names
        }


def _in_turns(
    names: Sequence[str], runs: int, run: Callable[[str], float]
) -> dict[str, list[float]]:
    """Return the seconds of so many runs of each, another one first each time."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(runs):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            taken[name].append(run(name))
    return taken


def _measure_noops(found: Found, those: Mapping[str, Contender], plan: Plan) -> None:
    items = plan.noop_items
    for peer in (*f.PEERS, "pool"):
        sizes: list[int | None] = [*f.chunks_to_try(items, plan.workers)]
        if peer == "pool":
            sizes.append(None)
        tried = {size: those[peer].ask("noops", items=items, chunk=size) for size in sizes}
        found.chunks[peer] = f.best_chunk(tried)
    found.chunks["myxo"] = plan.chunk

    def noops(name: str) -> float:
        return float(those[name].ask("noops", items=items, chunk=found.chunks[name])) / items

    def each(name: str) -> float:
        return float(those[name].ask("noops_each", seconds=plan.each_s, most=items))

    found.noop = _in_turns(("myxo", "pool", *f.PEERS), plan.runs, noops)
    found.each = _in_turns(("ray", "dask"), plan.runs, each)


def _measure_sweeps(found: Found, those: Mapping[str, Contender], plan: Plan) -> None:
    def run(name: str, items: int, value: int) -> float:
        chunk = plan.chunk if name == "myxo" else None
        return float(those[name].ask("factorials", items=items, value=value, chunk=chunk))

    one = partial(run, items=plan.speed_items, value=SPEED_VALUE)
    found.speed = _in_turns(("loop", "myxo", "pool"), plan.runs, one)
    for items in plan.sizes:
        one = partial(run, items=items, value=SPEED_VALUE)
        found.sizes[items] = _in_turns(("loop", "myxo"), plan.runs, one)
    for value in plan.values:
        one = partial(run, items=plan.values_items, value=value)
        found.values[value] = _in_turns(("loop", "myxo"), plan.runs, one)


def _measure_arrays(found: Found, those: Mapping[str, Contender], plan: Plan) -> None:
    found.arrays = _in_turns(
        ("myxo", "ray"),
        plan.runs,
        lambda name: float(those[name].ask("arrays", count=plan.arrays, mebibytes=ARRAY_MIB)),
    )


def _measure_trouble(found: Found, one: Contender, plan: Plan) -> None:
    def run(how: str) -> float:
        arguments: dict[str, Any] = {"one_slow": how == "slow"}
        if how == "killed":
            arguments["kill_after_s"] = median(found.paced["undisturbed"]) / 2
        one.ask("warm", workers=TROUBLED_WORKERS)
        took = one.ask("pauses", items=plan.paced_items, pause_s=plan.pause_s, **arguments)
        found.paced_workers.append(int(took["workers"]))
        return float(took["seconds"])

    found.paced["undisturbed"] = [run("undisturbed") for _ in range(plan.runs)]
    for how in ("slow", "killed"):
        found.paced[how] = [run(how) for _ in range(plan.runs)]


# What is said of it


def figures_of(found: Found, plan: Plan) -> dict[str, Any]:
    """Return the figures by key."""
    said: dict[str, Any] = {
        "speedup": f.ratio(found.speed, "loop", "myxo"),
        "speedup_pool": f.ratio(found.speed, "loop", "pool"),
        "ratio_pool": f.ratio(found.speed, "pool", "myxo"),
        "break_even_items": f.break_even(_medians(found.sizes)),
        "break_even_value": f.break_even(_medians(found.values)),
        "sizes_s": _by_way(found.sizes),
        "values_s": _by_way(found.values),
        "workers": plan.workers,
        "runs": plan.runs,
    }
    if found.noop:
        said |= _noop_figures(found)
    if found.arrays:
        said["arrays_ratio_ray"] = f.ratio(found.arrays, "myxo", "ray")
    if found.memory:
        said["flow_items"] = plan.flow_items
        said["flow_growth_mib"] = found.memory["most_mib"] - found.memory["settled_mib"]
    if found.paced:
        said |= _trouble_figures(found, plan)
    return said


def _noop_figures(found: Found) -> dict[str, Any]:
    peer = f.best_peer(found.noop)
    own_s = median(found.noop["myxo"])
    return {
        "noop_ratio_best_peer": f.ratio(found.noop, "myxo", peer),
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


def _medians(sweep: Sweep) -> list[tuple[float, float, float]]:
    return [(at, median(taken["loop"]), median(taken["myxo"])) for at, taken in sweep.items()]


def _by_way(sweep: Sweep) -> dict[str, dict[str, float]]:
    return {
        str(at): {way: median(runs) for way, runs in taken.items()} for at, taken in sweep.items()
    }


def text_of(found: Found, plan: Plan) -> str:
    """Return the tables."""
    tables = []
    if found.noop:
        tables.append(_noop_table(found, plan))
    tables += [
        _speed_table(found, plan),
        _sweep_table("items of factorial 1000, s", found.sizes),
        _sweep_table(f"{plan.values_items:,} factorials of, s", found.values),
    ]
    if found.paced:
        tables.append(_trouble_table(found, plan))
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


def _sweep_table(what: str, sweep: Sweep) -> str:
    rows = [
        [
            f"{at:,}",
            *(spread(taken[way]).text(3) for way in ("loop", "myxo")),
            f"{f.ratio(taken, 'loop', 'myxo'):.2f}",
        ]
        for at, taken in sweep.items()
    ]
    even = f.break_even(_medians(sweep))
    said = "never" if even is None else f"from {even:,.0f} on"
    return table([what, "plain loop", "Myxo", "loop ÷ Myxo"], rows) + (
        f"\n\nMyxo is no slower: {said}"
    )


def _trouble_table(found: Found, plan: Plan) -> str:
    said = figures_of(found, plan)
    held = found.memory
    rows = [
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
        [
            f"memory of the caller over {plan.flow_items:,} items as completed, MiB",
            f"{held['settled_mib']:.1f}, then up to {held['most_mib']:.1f}",
            "",
        ],
        [
            f"{plan.arrays} arrays of {ARRAY_MIB} MiB, s",
            spread(found.arrays["myxo"]).text(2),
            f"{said['arrays_ratio_ray']:.2f} of Ray's",
        ],
    ]
    what = f"{plan.paced_items:,} items of {plan.pause_s * 1000:g} ms"
    least = said["paced_workers_least"]
    fewer = "" if least >= TROUBLED_WORKERS else f"\n\nin one of these only {least} took part"
    return table([what, "", ""], rows) + fewer
