"""The queue simulators: how fast they are, and whether theory agrees.

M/M/1, M/M/c and M/D/1 are simulated with 20 seeds each; the closed form is to lie within the 95 %
confidence interval of the 20 means. An interval that is right misses one time in 20, so further
sets of 20 seeds say how often it does. A run begins empty, which these runs are long enough to
forget: none of it is left out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench.command import Report, run
from bench.lab.queueing.comparing import run as replayed
from bench.lab.queueing.figures import Figures
from bench.lab.queueing.intervals import Interval, interval
from bench.lab.queueing.models import Model, simulated
from bench.lab.queueing.replay import Serving
from bench.lab.traces.choosing import Chooser
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from bench.stats import table

SEEDS = 20
LOAD = 0.8
SERVERS = 3

MODELS = {
    "mm1": Model(1.0, LOAD),
    "mmc": Model(1.0, LOAD * SERVERS, SERVERS),
    "md1": Model(1.0, LOAD, spread="constant"),
}
NAMES = {"mm1": "M/M/1", "mmc": f"M/M/{SERVERS}", "md1": "M/D/1"}

POLICIES = ("round_robin", "random", "least_request", "peak_ewma")
WORKERS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated.

    Attributes:
        sets: of 20 seeds.
        customers: of a run with one server.
        customers_mmc: of one with several.
        timed, timed_mmc: of the runs whose speed is measured.
        requests: of the trace whose serving is timed.
    """

    sets: int
    customers: int
    customers_mmc: int
    timed: int
    timed_mmc: int
    requests: int

    def of(self, name: str) -> int:
        """Return the customers of a model's run."""
        return self.customers_mmc if name == "mmc" else self.customers


FULL = Plan(100, 100_000, 20_000, 10_000_000, 2_000_000, 200_000)
QUICK = Plan(20, 50_000, 10_000, 1_000_000, 200_000, 20_000)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One figure of a model, and whether theory's is in its intervals.

    Attributes:
        name: of the figure.
        expected: theory's.
        first: the interval of the first 20 seeds.
        share: of the sets, how many have theory's in their interval.
    """

    name: str
    expected: float
    first: Interval
    share: float


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark."""
    plan = QUICK if quick else FULL
    found = {name: list(_agreements(name, plan)) for name in MODELS}
    speeds = {
        "customers_per_s": _rate(plan.timed, lambda: simulated(MODELS["mm1"], plan.timed, 1)),
        "mmc_customers_per_s": _rate(
            plan.timed_mmc, lambda: simulated(MODELS["mmc"], plan.timed_mmc, 1)
        ),
    }
    speeds |= {f"{name}_requests_per_s": rate for name, rate in _policies(plan.requests)}
    figures: dict[str, object] = {"sets": plan.sets, "seeds": SEEDS, "customers": plan.timed}
    for name, agreements in found.items():
        figures[f"{name}_within_ci"] = all(one.first.holds(one.expected) for one in agreements)
        figures[f"{name}_ci_share"] = {one.name: one.share for one in agreements}
    return Report(figures | speeds, f"{_theory_text(found, plan)}\n\n{_speed_text(speeds, plan)}")


def _agreements(name: str, plan: Plan) -> Iterator[Agreement]:
    model, customers = MODELS[name], plan.of(name)
    expected = model.expected()
    if expected is None:
        raise ValueError(f"theory says nothing of {model}")
    sets = [
        [simulated(model, customers, seed) for seed in range(first, first + SEEDS)]
        for first in range(0, plan.sets * SEEDS, SEEDS)
    ]
    yield _agreement("delay", expected.delay, sets, lambda it: it.average_delay)
    yield _agreement("number", expected.number, sets, lambda it: it.average_number)
    yield _agreement("utilisation", expected.utilisation, sets, lambda it: it.utilisation)


def _agreement(
    name: str,
    expected: float,
    sets: Sequence[Sequence[Figures]],
    value: Callable[[Figures], float],
) -> Agreement:
    intervals = [interval([value(figures) for figures in runs]) for runs in sets]
    share = sum(one.holds(expected) for one in intervals) / len(intervals)
    return Agreement(name, expected, intervals[0], share)


def _rate(count: int, work: Callable[[], object]) -> float:
    """Return how many are done in a second of processor time."""
    began = time.process_time()
    work()
    return count / (time.process_time() - began)


def _policies(requests: int) -> Iterator[tuple[str, float]]:
    """Yield how many requests of a trace a second are given to workers and served, by policy."""
    trace = list(generate(Parameters(samples=requests), 1))
    serving = Serving(LOAD * WORKERS)
    for policy in POLICIES:
        chooser = Chooser(policy, [1.0] * WORKERS, 1)
        yield policy, _rate(requests, partial(replayed, trace, chooser, serving))


def _theory_text(found: dict[str, list[Agreement]], plan: Plan) -> str:
    rows = [
        [
            f"{NAMES[name]}, {one.name}",
            f"{one.expected:.4f}",
            one.first.text(4),
            "yes" if one.first.holds(one.expected) else "no",
            f"{one.share:.0%}",
        ]
        for name, agreements in found.items()
        for one in agreements
    ]
    head = [f"load {LOAD}", "closed form", f"{SEEDS} seeds, 95 %", "within", f"of {plan.sets} sets"]
    return table(head, rows)


def _speed_text(speeds: dict[str, float], plan: Plan) -> str:
    named = {
        "customers_per_s": f"M/M/1, {plan.timed:,} customers",
        "mmc_customers_per_s": f"M/M/{SERVERS}, {plan.timed_mmc:,} customers",
    } | {f"{name}_requests_per_s": f"trace, {WORKERS} workers, {name}" for name in POLICIES}
    return table(
        ["simulated", "a second of processor time"],
        [[named[name], f"{rate:,.0f}"] for name, rate in speeds.items()],
    )


if __name__ == "__main__":
    run("queues", __doc__.splitlines()[0], measure)
