"""From `myxo up` to the first answer, and what its daemons hold at rest.

The clock runs from starting the process `myxo up`, on a machine that was in no network before, to
the first byte of the first answer of a service that is registered meanwhile, with `registry-cli`
as a person would. A request that is refused is sent again, so that refusals count as time.
"""

import sys
import time
from statistics import median

import trio

from bench import backend
from bench.client import ask_until_ok
from bench.command import Report, run
from bench.machine import memory_mib
from bench.network import Network, network
from bench.stats import Spread, spread, table

RUNS, RUNS_QUICK = 7, 3
REST_S, REST_QUICK_S = 10.0, 2.0
NAME = "bench-answer"

Memory = dict[str, dict[str, float]]


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, NetworkFailed: it could not be measured.
    """
    runtime, flags = _service()
    runs: list[dict[str, float]] = []
    for last in [False] * ((RUNS_QUICK if quick else RUNS) - 1) + [True]:
        with network(runtime) as running:
            runs.append(_first_answer(running, flags))
            if last:
                time.sleep(REST_QUICK_S if quick else REST_S)
                memory = trio.run(_memory, running)
    return _report(runtime, runs, memory)


def _service() -> tuple[str, list[str]]:
    try:
        return "docker", ["--image", backend.image(backend.engine()).reference]
    except backend.NoEngine:
        return "process", ["--process", f"exec {backend.program()} $SERVICE_PORT"]


def _first_answer(running: Network, flags: list[str]) -> dict[str, float]:
    """Return the seconds of each step from `myxo up` to the first byte."""
    began = time.perf_counter()
    running.registry_cli("add", *flags, NAME)
    added_s = time.perf_counter() - began
    answer, refused = ask_until_ok(running.url(NAME))
    if refused:
        print(f"the first {refused} requests were refused", file=sys.stderr)
    return {"ready": running.ready_s, "add": added_s, "request": answer.first_byte_s}


async def _memory(running: Network) -> Memory:
    return {role: memory_mib(pid) for role, pid in (await running.processes()).items()}


def _report(runtime: str, runs: list[dict[str, float]], memory: Memory) -> Report:
    whole = [sum(steps.values()) for steps in runs]
    without_add = [sum(steps.values()) - steps["add"] for steps in runs]
    figures = {
        "up_to_first_answer_s": median(whole),
        "up_to_first_answer_without_add_s": median(without_add),
        "up_to_ready_s": median(steps["ready"] for steps in runs),
        "rss_mib": {role: held["rss"] for role, held in memory.items()},
        "pss_mib": {role: held["pss"] for role, held in memory.items()},
        "runs": len(runs),
        "runtime": runtime,
    }
    steps = {
        "`myxo up` says that it is ready": spread([r["ready"] for r in runs]),
        "`registry-cli add`": spread([r["add"] for r in runs]),
        "first request, which starts the service": spread([r["request"] for r in runs]),
        "all": spread(whole),
        "all but `registry-cli add`": spread(without_add),
    }
    return Report(figures, f"{_times(steps, len(runs), runtime)}\n\n{_held(memory)}")


def _times(steps: dict[str, Spread], runs: int, runtime: str) -> str:
    columns = [f"step, s ({runtime} runtime)", f"median of {runs} (min–max)"]
    return table(columns, [[name, found.text(2)] for name, found in steps.items()])


def _held(memory: Memory) -> str:
    rows = [
        [role, f"{held['rss']:.1f}", f"{held['pss']:.1f}"] for role, held in sorted(memory.items())
    ]
    both = [f"{sum(held[kind] for held in memory.values()):.1f}" for kind in ("rss", "pss")]
    return table(["process at rest, MiB", "RSS", "PSS"], [*rows, ["all", "", both[1]]])


if __name__ == "__main__":
    run("up", "From `myxo up` to the first answer; memory of each daemon at rest.", measure)
