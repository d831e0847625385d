"""Policies side by side on the same traces: means and confidence intervals over runs.

Each run has a trace and streams of its own; in one run all policies get the same ones. What differs
from trace to trace then cancels out of the difference of two policies, whose interval is much
narrower than theirs (common random numbers; Law and Kelton, section 11.2).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.lab.queueing.figures import Figures
from bench.lab.queueing.intervals import Interval, interval
from bench.lab.queueing.replay import Serving, served, together
from bench.lab.traces.choosing import Chooser
from bench.lab.traces.rows import Request
from bench.lab.traces.splitting import Share

Trace = Sequence[Request]
ServingOf = Callable[[Trace, int, int], Serving]
"""How a trace is served by so many workers, in the run of some seed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one trace.

    Attributes:
        figures: of all workers together.
        busiest: requests of the worker that got the most ÷ an equal share.
    """

    figures: Figures
    busiest: float


@dataclass(frozen=True, slots=True)
class Row:
    """One policy with so many workers, over all runs.

    Attributes:
        delay, p95, p99, number, utilisation, busiest: as of `Figures` and `Run`.
        over_first: delay less that of the first policy with as many workers; None of the first.
    """

    workers: int
    policy: str
    delay: Interval
    p95: Interval
    p99: Interval
    number: Interval
    utilisation: Interval
    busiest: Interval
    over_first: Interval | None


def compared(
    traces: Mapping[int, Trace],
    workers: Sequence[int],
    policies: Sequence[str],
    serving_of: ServingOf,
) -> Iterator[Row]:
    """Yield a row for each number of workers and policy.

    Args:
        traces: by the seed of their run.
        workers: numbers of them.
        policies: in their one spelling.
        serving_of: how a trace is served.
    """
    for count in workers:
        first: list[Run] | None = None
        for policy in policies:
            runs = [
                run(trace, Chooser(policy, [1.0] * count, seed), serving_of(trace, count, seed))
                for seed, trace in traces.items()
            ]
            yield _row(count, policy, runs, first)
            first = first or runs


def run(trace: Trace, chooser: Chooser, serving: Serving) -> Run:
    """Serve a trace once."""
    shares = served(trace, chooser, serving)
    return Run(together(shares, serving.customers), busiest(shares))


def busiest(shares: Sequence[Share]) -> float:
    """Return the requests of the worker that got the most ÷ an equal share."""
    counts = [len(share.requests) for share in shares]
    return max(counts) * len(counts) / sum(counts)


def _row(workers: int, policy: str, runs: Sequence[Run], first: Sequence[Run] | None) -> Row:
    def over(value: Callable[[Figures], float]) -> Interval:
        return interval([value(one.figures) for one in runs])

    return Row(
        workers,
        policy,
        over(lambda it: it.average_delay),
        over(lambda it: it.p95),
        over(lambda it: it.p99),
        over(lambda it: it.average_number),
        over(lambda it: it.utilisation),
        interval([one.busiest for one in runs]),
        None if first is None else interval(_differences(runs, first)),
    )


def _differences(runs: Sequence[Run], first: Sequence[Run]) -> list[float]:
    pairs = zip(runs, first, strict=True)
    return [one.figures.average_delay - other.figures.average_delay for one, other in pairs]
