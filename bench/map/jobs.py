"""What a contender can be asked for: each job computes something, checks it, and tells its time."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import memory_mib
from bench.map.copies import copies_of_an_array
from bench.map.engines import Engine, Loop, Myxo
from bench.map.tasks import factorial, mean, noop, paced

LOOK_EVERY = 10_000
"""Results between two looks at the caller's memory."""

SETTLED = 0.1
"""Of a flow of items: what is made once is there then."""

WARM_S = 0.1
"""Of the items that bring workers up; longer each time, until all workers have come meanwhile."""

WARM_TRIES = 6

LONG = 3000
"""Whose factorial takes some milliseconds."""


class WrongResult(Exception):
    """An engine returned something else than a plain loop."""


def warm(engine: Engine, workers: int) -> int:
    """Have all workers take part in something; return how many did at the end.

    Who asks decides what fewer mean: an engine may give fewer, and that is a figure too.
    """
    seen = 0
    for doublings in range(WARM_TRIES):
        with tempfile.TemporaryDirectory(prefix="myxo-bench-") as folder:
            items = [(n, folder, WARM_S * 2**doublings, False) for n in range(4 * workers)]
            engine.map(paced, items, 1)
            seen = len(_workers(folder))
        if seen >= workers or isinstance(engine, Loop):
            break
    return seen


def factorials(engine: Engine, items: int, value: int, chunk: int | None = None) -> float:
    """Return the seconds from making the input to the sum of the results, as PUMA counted."""
    began = time.perf_counter()
    total = sum(engine.map(factorial, [value] * items, chunk))
    took_s = time.perf_counter() - began
    _check(total == items * factorial(value))
    return took_s


def noops(engine: Engine, items: int, chunk: int | None = None) -> float:
    """Return the seconds for so many items that cost nothing, in chunks."""
    numbers = list(range(items))
    began = time.perf_counter()
    results = engine.map(noop, numbers, chunk)
    took_s = time.perf_counter() - began
    _check(results == numbers)
    return took_s


def noops_each(engine: Engine, seconds: float, most: int) -> float:
    """Return the seconds an item, each submitted by itself, for as many as fit a time."""
    items, took_s = 200, _timed_each(engine, 200)
    while took_s < seconds / 2 and items < most:
        items = min(most, int(items * min(10.0, seconds / took_s)))
        took_s = _timed_each(engine, items)
    return took_s / items


def _timed_each(engine: Engine, items: int) -> float:
    numbers = list(range(items))
    began = time.perf_counter()
    results = engine.each(noop, numbers)
    took_s = time.perf_counter() - began
    _check(results == numbers)
    return took_s


def arrays(engine: Engine, count: int, mebibytes: int) -> float:
    """Return the seconds for the means of so many arrays, one to a message."""
    inputs = [np.full(mebibytes << 17, float(n)) for n in range(count)]
    began = time.perf_counter()
    results = engine.each(mean, inputs)
    took_s = time.perf_counter() - began
    _check(results == [float(n) for n in range(count)])
    return took_s


def copies(engine: Engine, mebibytes: int) -> dict[str, float]:
    """Return the copies of one array on its way `there` and `back`, each ÷ its size."""
    if not isinstance(engine, Myxo):
        raise TypeError("others' memory is not all Python's")
    return copies_of_an_array(mebibytes << 20)


def pauses(
    engine: Engine,
    items: int,
    pause_s: float,
    chunk: int | None = None,
    *,
    one_slow: bool = False,
    kill_after_s: float | None = None,
) -> dict[str, float]:
    """Return the `seconds` for items that wait, and how many `workers` took part.

    Args:
        engine: that computes them.
        items: how many.
        pause_s: of each, in seconds.
        chunk: items of a message, or None for the engine's own.
        one_slow: have one worker take ten times as long.
        kill_after_s: after which one worker is killed, and its parent if that restarts it.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-bench-") as folder:
        inputs = [(n, folder, pause_s, one_slow) for n in range(items)]
        killer = threading.Timer(kill_after_s or 0.0, _kill_one, [folder])
        began = time.perf_counter()
        if kill_after_s is not None:
            killer.start()
        results = engine.map(paced, inputs, chunk)
        took_s = time.perf_counter() - began
        seen = len(_workers(folder))
        if kill_after_s is not None:
            killer.join()
            _check(Path(folder, "killed").exists())
    _check(results == list(range(items)))
    return {"seconds": took_s, "workers": seen}


def _workers(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("worker-*"))


def _kill_one(folder: str) -> None:
    for pid in _workers(folder)[0].read_text().split()[::-1]:  # the parent first
        if int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    Path(folder, "killed").touch()


def flow_until(engine: Engine, stop: str) -> int:
    """Compute items of a generator until a file is there; return how many came of it."""
    if not isinstance(engine, Myxo):
        raise TypeError("only Myxo's map is iterated over")
    file = Path(stop)
    return engine.flow(factorial, takewhile(lambda _: not file.exists(), repeat(LONG)), _pass)


def _pass() -> None:
    """See nothing in it."""


def flow(engine: Engine, items: int) -> dict[str, float]:
    """Take items as they are completed, from a generator; return how the caller's memory grew.

    `settled_mib` is its PSS after a tenth of them, `most_mib` the most behind that.
    """
    if not isinstance(engine, Myxo):
        raise TypeError("only Myxo's map is iterated over")
    pss_mib: list[float] = []
    count = 0

    def seen() -> None:
        nonlocal count
        count += 1
        if count % LOOK_EVERY == 0:
            pss_mib.append(memory_mib(os.getpid())["pss"])

    began = time.perf_counter()
    _check(engine.flow(noop, iter(range(items)), seen) == items)
    took_s = time.perf_counter() - began
    behind = pss_mib[max(0, int(len(pss_mib) * SETTLED) - 1) :]
    return {"seconds": took_s, "settled_mib": behind[0], "most_mib": max(behind)}


def _check(right: bool) -> None:
    if not right:
        raise WrongResult("the result is not that of a plain loop")


JOBS: Mapping[str, Callable[..., Any]] = {
    "warm": warm,
    "factorials": factorials,
    "noops": noops,
    "noops_each": noops_each,
    "arrays": arrays,
    "copies": copies,
    "pauses": pauses,
    "flow": flow,
    "flow_until": flow_until,
}
"""By name; each takes the engine and what the job says."""
