"""What is measured, and what was found."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.map.beside import ColdStarts

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
        noop_runs, speed_runs: of these and of the speed-up, which are short, and whose ratios
            move by a fifth from run to run.
        each_s: seconds for items that are submitted one by one.
        speed_items: factorials of the speed-up.
        paced_items, pause_s: of the runs with a slow or a killed worker.
        flow_items: taken as they are completed.
        arrays: of 16 MiB each.
        colds: cold starts of another service without a map, and as many beside one.
        chunk: items of a message of Myxo's, or None for its own choice.
        bootstrap: of a network to map on instead of one on this machine.
        links: milliseconds to the workers and back, for the sweeps over a lab.
        only: the one part that is measured here, or None for all.
    """

    sizes: Sequence[int] = (100, 1_000, 10_000, 100_000, 1_000_000)
    values: Sequence[int] = (100, 500, 1000, 1500)
    values_items: int = VALUES_ITEMS
    noop_items: int = 100_000
    noop_runs: int = 100
    speed_runs: int = 10
    each_s: float = 5.0
    speed_items: int = 10_000
    paced_items: int = 2_000
    pause_s: float = 0.01
    flow_items: int = 1_000_000
    arrays: int = 64
    colds: int = 30
    workers: int = 2
    runs: int = 5
    chunk: int | None = None
    bootstrap: str | None = None
    links: Sequence[int] = ()
    only: str | None = None


FULL = Plan()
QUICK = Plan(
    sizes=(100, 1_000),
    values=(100, 1000),
    values_items=VALUES_ITEMS_QUICK,
    each_s=0.5,
    paced_items=400,
    flow_items=200_000,
    arrays=8,
    colds=5,
    runs=2,
    noop_runs=5,
    speed_runs=2,
)

Sweep = dict[int, dict[str, list[float]]]
"""Seconds of each run, by contender, for each size of the problem."""


@dataclass(slots=True)
class Found:
    """Seconds of each run, by contender.

    Attributes:
        noop: an item, in chunks.
        each: an item, submitted by itself.
        chunks: the size that was best, by contender; None is its own choice.
        speed: `speed_items` factorials of 1000.
        sizes, values: the sweeps; over a lab the contenders are the loop and each link.
        arrays: all of them.
        copies: of one array on its way, see `copies.py`.
        paced: with four workers: `undisturbed`, `slow`, `killed`.
        paced_workers: how many took part in each of these.
        memory: of the caller, see `jobs.flow`.
        colds: cold starts of another service, without a map and beside one.
    """

    noop: dict[str, list[float]] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    chunks: dict[str, int | None] = field(default_factory=dict)
    speed: dict[str, list[float]] = field(default_factory=dict)
    sizes: Sweep = field(default_factory=dict)
    values: Sweep = field(default_factory=dict)
    arrays: dict[str, list[float]] = field(default_factory=dict)
    copies: dict[str, float] = field(default_factory=dict)
    paced: dict[str, list[float]] = field(default_factory=dict)
    paced_workers: list[int] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    colds: ColdStarts | None = None
