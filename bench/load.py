"""The lab's load engine beside k6: exact counts, latencies, the most that one core can send.

Both load the same small server in C. For latencies they take turns at the same rate, and both count
from when a request was due. For the highest rate each has one processor alone and the server the
other; a rate is held if 99 % of it is sent, and answered.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio

from bench import backend
from bench.client import AnswerFailed
from bench.command import Report, run
from bench.errors import HopMissing
from bench.lab.experiments import queries
from bench.lab.experiments.database import database_url
from bench.lab.experiments.records import Experiment, Task
from bench.lab.experiments.seen import SeenRequests
from bench.lab.experiments.status import Status
from bench.lab.experiments.store import SqlTraceSink, Store, open_store
from bench.lab.loading.csv_sink import open_csv
from bench.lab.loading.plan import make_plan
from bench.lab.loading.processes import Options, Outcome, run_load
from bench.lab.request_trace import TraceSink
from bench.load_k6 import VUS, k6
from bench.load_killed import SINKS, Killed, killed, trace
from bench.stats import spread, table

EXACT_RATE, EXACT_S = 1000, 10
HELD = 0.99
"""Of a rate, that is sent: k6 drops what it has no user for, ours is late."""

KILLED_AT = 2000
"""Traces that a writer has made when it is killed; each is killed at another place."""

WATCHED = Experiment("written", "written", "bench.load", created=0.0, status=Status.FINISHED)
"""What they are of."""

BATCH = 1000
"""Traces that are written at once, as a load host sends them."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: of latencies, and of requests with traces and without.
        block_s: seconds of each.
        peak_s: seconds of a rate that may hold.
        bisections: of the highest rate.
        traces: that are written.
        kills: of a writer of traces, for each sink.
    """

    rounds: int
    block_s: int
    peak_s: int
    bisections: int
    traces: int
    kills: int


FULL = Size(rounds=5, block_s=5, peak_s=4, bisections=4, traces=1_000_000, kills=20)
QUICK = Size(rounds=1, block_s=2, peak_s=1, bisections=1, traces=100_000, kills=2)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed: the server does not answer all.
        HopMissing: k6 is not installed, or there is one processor alone.
    """
    size = QUICK if quick else FULL
    with backend.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        exact = _exact(url)
        latencies = _latencies(url, size)
        costs = _costs(url, size)
    peaks = _peaks(size)
    kills = {sink: [killed(sink, KILLED_AT + n) for n in range(size.kills)] for sink in SINKS}
    return _report(exact, latencies, peaks, Tracing(costs, trio.run(written, size.traces), kills))


def _load(url: str, rate: int, duration_s: int, traces: Path | None = None) -> Outcome:
    plan = make_plan({"target": url, "profile": f"constant:{rate}", "duration": duration_s})
    return trio.run(run_load, plan, Options(connections=VUS, traces=traces))


def _exact(url: str) -> Outcome:
    outcome = _load(url, EXACT_RATE, EXACT_S)
    if outcome.tally.failed or outcome.tally.unsent:
        raise AnswerFailed(f"{url}: {dict(outcome.tally.reasons)}")
    return outcome


@dataclass(frozen=True, slots=True)
class Latency:
    """The 99th percentiles of one round, in milliseconds; `service` is from when it was sent."""

    ours: float
    k6: float
    our_service: float
    k6_service: float


def _latencies(url: str, size: Size) -> list[Latency]:
    """Return what both measured at the same rate, taking turns."""
    found = []
    for _ in range(size.rounds):
        tally = _load(url, EXACT_RATE, size.block_s).tally
        other = k6(url, rate=EXACT_RATE, duration_s=size.block_s, intended=True)
        found.append(
            Latency(
                tally.intended.quantile(99) * 1000,
                other.intended_p99_ms,
                tally.service.quantile(99) * 1000,
                other.service_p99_ms,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Cost:
    """The processor time of a request of one round, in µs, without traces and with."""

    bare_us: float
    traced_us: float


def _costs(url: str, size: Size) -> list[Cost]:
    """Return what requests cost without traces and with traces in a file, taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            Cost(
                _cpu_us(_load(url, EXACT_RATE, size.block_s)),
                _cpu_us(_load(url, EXACT_RATE, size.block_s, Path(folder) / "traces.csv")),
            )
            for _ in range(size.rounds)
        ]


def _cpu_us(outcome: Outcome) -> float:
    return sum(outcome.cpu_s) / outcome.tally.sent * 1e6


def _peaks(size: Size) -> dict[str, int]:
    """Return the highest rate that each holds on one processor."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        raise HopMissing("the highest rate needs two processors: one for the server")
    load, server = processors[:2]
    with _pinned(server), backend.serving() as port, _pinned(load):
        url = f"http://127.0.0.1:{port}/"

        def we_hold(rate: int) -> bool:
            tally = _load(url, rate, size.peak_s).tally
            return tally.rate >= HELD * rate and tally.answered >= HELD * tally.asked

        def k6_holds(rate: int) -> bool:
            done = k6(url, rate=rate, duration_s=size.peak_s, intended=False)
            return done.sent - done.failed >= HELD * rate * size.peak_s

        return {
            "myxo": highest(we_hold, 4000, size.bisections),
            "k6": highest(k6_holds, 1000, size.bisections),
        }


def highest(holds: Callable[[int], bool], first: int, bisections: int) -> int:
    """Return the highest rate that was seen to hold: by doubling or halving, then by bisection.

    Raises:
        AnswerFailed: not even one request a second does.
    """
    held, failed = first, 2 * first
    while not holds(held):
        held, failed = held // 2, held
        if not held:
            raise AnswerFailed("not even one request a second is sent in time")
    while failed > first and holds(failed):
        held, failed = failed, 2 * failed
    for _ in range(bisections):
        between = (held + failed) // 2
        if holds(between):
            held = between
        else:
            failed = between
    return held


@contextmanager
def _pinned(processor: int) -> Iterator[None]:
    """Have what is started in a block run on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Written:
    """Traces that were written, and looked at as a person does who watches an experiment.

    Attributes:
        per_s: that each sink takes in a second.
        looks_s: what the first look at all of them took, and the next one.
    """

    per_s: Mapping[str, float]
    looks_s: tuple[float, float]


async def written(count: int) -> Written:
    """Write so many traces into each sink, and look at those in the database."""
    with tempfile.TemporaryDirectory() as folder:
        with open_csv(Path(folder) / "traces.csv") as file:
            per_s = {"csv": await _rows_per_s(file, count)}
        url = database_url(f"sqlite:///{folder}/traces.sqlite3", {}, Path(folder))
        async with open_store(url) as store:
            await store.write(queries.add, WATCHED, Task(None, None))
            per_s["sqlite"] = await _rows_per_s(SqlTraceSink(store), count)
            seen = SeenRequests()
            looks_s = await _look_s(store, seen, count), await _look_s(store, seen, count)
    return Written(per_s, looks_s)


async def _look_s(store: Store, seen: SeenRequests, count: int) -> float:
    began = time.perf_counter()
    summary = (await store.read(seen.look, WATCHED)).summary
    took_s = time.perf_counter() - began
    if summary.requests != count:
        raise AnswerFailed(f"{summary.requests:,} of {count:,} traces were found")
    return took_s


async def _rows_per_s(sink: TraceSink, count: int) -> float:
    began = time.perf_counter()
    for first in range(0, count, BATCH):
        numbers = range(first, first + BATCH)
        await sink.write([trace(number, WATCHED.exp_id) for number in numbers])
    return count / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Tracing:
    """What traces cost.

    Attributes:
        costs: of requests, with them and without.
        written: by a writer that does nothing else.
        kills: of writers, by sink.
    """

    costs: Sequence[Cost]
    written: Written
    kills: Mapping[str, Sequence[Killed]]

    def figures(self) -> dict[str, float]:
        """Return them by their names."""
        return {
            "request_us": median(cost.bare_us for cost in self.costs),
            "request_traced_us": median(cost.traced_us for cost in self.costs),
            "trace_us": median(cost.traced_us - cost.bare_us for cost in self.costs),
            **{f"traces_per_s_{sink}": rate for sink, rate in self.written.per_s.items()},
            "look_first_s": self.written.looks_s[0],
            "look_next_s": self.written.looks_s[1],
            **{f"lost_{sink}": self.lost(sink) for sink in self.kills},
        }

    def lost(self, sink: str) -> int:
        """Return the most traces that a writer had made and not written when it was killed."""
        return max(one.lost for one in self.kills[sink])

    def text(self) -> str:
        """Return them in words."""
        found = self.figures()
        kills = len(self.kills["csv"])
        return (
            f"a request costs {found['request_us']:.1f} µs of processor time, with its trace in a "
            f"file {found['request_traced_us']:.1f} µs: {found['trace_us']:+.1f} µs\n"
            f"traces written: {self.written.per_s['csv']:,.0f}/s as CSV, "
            f"{self.written.per_s['sqlite']:,.0f}/s into SQLite; the first look at all of these "
            f"took {found['look_first_s']:.1f} s, the next {found['look_next_s'] * 1000:.0f} ms\n"
            f"lost by a writer that is killed, at most of {kills}: {self.lost('csv')} of CSV, "
            f"{self.lost('sqlite')} of SQLite, all of them the last ones"
        )


def _report(
    exact: Outcome,
    latencies: list[Latency],
    peaks: dict[str, int],
    tracing: Tracing,
) -> Report:
    ratios = [one.ours / one.k6 for one in latencies]
    figures = {
        "asked": EXACT_RATE * EXACT_S,
        "sent": exact.tally.sent,
        "p99_ms": median(one.ours for one in latencies),
        "p99_ratio_k6": median(ratios),
        "max_rate": peaks["myxo"],
        "max_rate_ratio_k6": peaks["myxo"] / peaks["k6"],
        **tracing.figures(),
    }
    rows = [
        [
            "Myxo",
            spread([one.ours for one in latencies]).text(2),
            spread([one.our_service for one in latencies]).text(2),
            f"{peaks['myxo']:,}",
        ],
        [
            "k6",
            spread([one.k6 for one in latencies]).text(2),
            spread([one.k6_service for one in latencies]).text(2),
            f"{peaks['k6']:,}",
        ],
        ["Myxo ÷ k6", spread(ratios).text(2), "", f"{figures['max_rate_ratio_k6']:.2f}"],
    ]
    columns = [
        f"at {EXACT_RATE:,}/s, ms",
        "p99 from when due",
        "p99 from when sent",
        "requests/s that one core holds",
    ]
    text = (
        f"{table(columns, rows)}\n\n"
        f"asked {figures['asked']:,} in {EXACT_S} s, sent {exact.tally.sent:,} "
        f"({exact.tally.rate:,.1f}/s)\n{tracing.text()}"
    )
    return Report(figures, text)


if __name__ == "__main__":
    run("load", "The load engine beside k6: counts, latencies, highest rate, traces.", measure)
