"""The benchmark: who is asked for what, and in which order."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.command import Report
from bench.map import figures as f
from bench.map.beside import measured
from bench.map.contender import Contender, contender
from bench.map.places import Place, beside, distant, founded, joined
from bench.map.plan import ARRAY_MIB, FULL, QUICK, SPEED_VALUE, TROUBLED_WORKERS, Found, Plan
from bench.map.tables import figures_of, text_of, way_of

Contenders = Mapping[str, Contender]

PARTS = ("noops", "sweeps", "arrays", "flow", "trouble", "colds")
"""What can be measured here by itself."""

SWEPT = ("loop", "myxo", "pool")
"""Who takes part in the sweeps."""


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    return report(QUICK if quick else FULL)[0]


def report(plan: Plan) -> tuple[Report, Found]:
    """Return all figures of a plan, and what they are made of.

    Raises:
        AnswerFailed, LabFailed, NetworkFailed: it could not be measured.
    """
    found = Found()
    with tempfile.TemporaryDirectory(prefix="myxo-bench-map-") as name:
        folder = Path(name)
        if plan.links:
            _measure_links(found, plan, folder)
        elif plan.bootstrap is not None:
            with (
                joined(plan.bootstrap) as place,
                _contenders(SWEPT, place, plan.workers, folder) as those,
            ):
                _measure_sweeps(found, those, plan)
        else:
            _measure_here(found, plan, folder)
    return Report(figures_of(found, plan), text_of(found, plan)), found


@contextmanager
def _contenders(
    names: Iterable[str], place: Place, workers: int, folder: Path
) -> Iterator[Contenders]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                contender(name, workers, folder, place.environment, place.inside)
            )
            for name in names
        }


@contextmanager
def _here(names: Iterable[str], workers: int, folder: Path) -> Iterator[Contenders]:
    # Room beyond this machine's processors where workers wait more than they compute.
    room = max(workers, len(os.sched_getaffinity(0)))
    with founded(room) as running, _contenders(names, beside(running), workers, folder) as those:
        yield those


def _measure_here(found: Found, plan: Plan, folder: Path) -> None:
    """Measure all parts on this machine, or the one that the plan names."""
    parts = {
        "noops": (_measure_noops, ("myxo", "pool", *f.PEERS)),
        "sweeps": (_measure_sweeps, SWEPT),
        "arrays": (_measure_arrays, ("myxo", "ray")),
        "flow": (_measure_flow, ("myxo",)),
    }
    chosen = [part for name, part in parts.items() if plan.only in {None, name}]
    if chosen:
        names = dict.fromkeys(name for _, those in chosen for name in those)
        with _here(names, plan.workers, folder) as contenders:
            for part, _ in chosen:
                part(found, contenders, plan)
    if plan.only in {None, "trouble"}:
        with _here(("myxo",), TROUBLED_WORKERS, folder) as those:
            _measure_trouble(found, those["myxo"], plan)
    if plan.only in {None, "colds"}:
        found.colds = measured(plan.workers, plan.colds)


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


def _measure_noops(found: Found, those: Contenders, plan: Plan) -> None:
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

    found.noop = _in_turns(("myxo", "pool", *f.PEERS), plan.noop_runs, noops)
    found.each = _in_turns(("ray", "dask"), plan.runs, each)


def _measure_sweeps(found: Found, those: Contenders, plan: Plan) -> None:
    def run(name: str, items: int, value: int) -> float:
        chunk = plan.chunk if name == "myxo" else None
        return float(those[name].ask("factorials", items=items, value=value, chunk=chunk))

    one = partial(run, items=plan.speed_items, value=SPEED_VALUE)
    found.speed = _in_turns(SWEPT, plan.speed_runs, one)
    _sweep(found, plan, ("loop", "myxo"), run)


def _sweep(found: Found, plan: Plan, names: Sequence[str], run: Callable[..., float]) -> None:
    for items in plan.sizes:
        one = partial(run, items=items, value=SPEED_VALUE)
        found.sizes[items] = _in_turns(names, plan.runs, one)
    for value in plan.values:
        one = partial(run, items=plan.values_items, value=value)
        found.values[value] = _in_turns(names, plan.runs, one)


def _measure_links(found: Found, plan: Plan, folder: Path) -> None:
    """Measure the sweeps with the workers on another machine, which is nearer and farther."""
    ways = {way_of(rtt): rtt for rtt in (0, *plan.links)}
    with (
        distant(plan.workers) as far,
        _contenders(("loop", "myxo"), far.place, plan.workers, folder) as those,
    ):

        def run(way: str, items: int, value: int) -> float:
            if way in ways:
                far.set_rtt(ways[way])
            one = those["myxo" if way in ways else "loop"]
            return float(one.ask("factorials", items=items, value=value, chunk=plan.chunk))

        _sweep(found, plan, ("loop", *ways), run)


def _measure_flow(found: Found, those: Contenders, plan: Plan) -> None:
    found.memory = those["myxo"].ask("flow", items=plan.flow_items)


def _measure_arrays(found: Found, those: Contenders, plan: Plan) -> None:
    found.arrays = _in_turns(
        ("myxo", "ray"),
        plan.runs,
        lambda name: float(those[name].ask("arrays", count=plan.arrays, mebibytes=ARRAY_MIB)),
    )
    found.copies = those["myxo"].ask("copies", mebibytes=ARRAY_MIB)


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
