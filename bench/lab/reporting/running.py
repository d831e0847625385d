"""Runs a comparison: each variant in turn, again and again, under the same schedule."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import psutil
import trio

from bench.lab.errors import LabError
from bench.lab.loading.csv_sink import read_csv
from bench.lab.loading.plan import Plan
from bench.lab.loading.plan import make_plan as make_load
from bench.lab.loading.processes import Options, Outcome, run_load
from bench.lab.loading.tally import FIRST_FAILURE, Tally
from bench.lab.reporting.figures import Run, spread
from bench.lab.reporting.network import NetworkUnderTest
from bench.lab.reporting.plan import ReportPlan, Variant, changed, exactly
from bench.lab.reporting.proxy_metrics import Counted, ProxyMetrics
from bench.lab.reporting.reactive import Reactive, Scaler
from overlay.spec import ServiceSpec

Tell = Callable[[str], None]
"""Is told what goes on, a line at a time."""


class EndedEarly(LabError):
    """Somebody interrupted a run: what it shows is no figure."""


class Comparison:
    """What runs a plan.

    Args:
        plan: what is compared.
        network: with the services.
        metrics: of this machine's proxy, through which the load goes.
        folder: takes a file of traces for each run.
        proxy: its address; None for this machine's own.
    """

    def __init__(
        self,
        plan: ReportPlan,
        network: NetworkUnderTest,
        metrics: ProxyMetrics,
        folder: Path,
        proxy: str | None = None,
    ) -> None:
        self._plan = plan
        self._network = network
        self._metrics = metrics
        self._folder = folder
        self._proxy = proxy

    async def runs(self, tell: Tell) -> list[Run]:
        """Run everything and return what became of it; definitions are then as they were.

        Raises:
            LabError: it could not be done.
        """
        found: list[Run] = []
        async with self._network.borrowed(self._plan.services) as originals:
            for variant in self._plan.variants:  # before an hour is spent on the others
                for original in originals.values():
                    variant.spec(original)
            for number, variant in self._plan.rounds():
                tell(f"run {number + 1} of {self._plan.runs}: {variant.name}")
                found += await self._run(number, variant, originals, tell)
        return found

    async def _run(
        self, number: int, variant: Variant, originals: Mapping[str, ServiceSpec], tell: Tell
    ) -> list[Run]:
        specs = {name: variant.spec(original) for name, original in originals.items()}
        for name, spec in specs.items():
            await self._network.define(name, spec, afresh=True)
        for name, spec in specs.items():
            await self._network.settle(name, spec.min_instances)
        before = await self._metrics.counted()
        outcomes = await self._loaded(number, variant, specs)
        after = await self._metrics.counted()
        for name, outcome in outcomes.items():
            if lacking := not_served(outcome.tally):
                tell(f"  {name}: {lacking}")
        waits = {name: _waited(after, name) - _waited(before, name) for name in specs}
        return [
            self._figures(number, variant, name, outcome, waits[name])
            for name, outcome in outcomes.items()
        ]

    async def _loaded(
        self, number: int, variant: Variant, specs: Mapping[str, ServiceSpec]
    ) -> Mapping[str, Outcome]:
        """Return what became of the load of each service, all at the same time."""
        outcomes: dict[str, Outcome] = {}

        async def load(name: str, spec: ServiceSpec) -> None:
            begun = trio.Event()
            async with trio.open_nursery() as nursery:
                if variant.scaling.reactive is not None:
                    nursery.start_soon(self._scale, name, spec, variant.scaling.reactive, begun)
                outcomes[name] = await self._load(name, number, variant, begun)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for name, spec in specs.items():
                nursery.start_soon(load, name, spec)
        return outcomes

    async def _load(self, name: str, number: int, variant: Variant, begun: trio.Event) -> Outcome:
        plan = make_load(self._plan.load(name, number))
        options = Options(
            processes=self._plan.processes,
            proxy=self._proxy,
            traces=self._traces(name, number, variant),
        )
        outcome = await run_load(plan, options, lambda _: begun.set())
        if outcome.tally.asked < due(plan):
            raise EndedEarly("the comparison was ended early; no report is made of a part")
        return outcome

    async def _scale(
        self, name: str, spec: ServiceSpec, reactive: Reactive, begun: trio.Event
    ) -> None:
        """Change the number of instances as a reactive policy says, until cancelled."""
        scaler = Scaler(reactive)
        await begun.wait()
        psutil.cpu_percent()  # from now on
        while True:
            await trio.sleep(reactive.period_s)
            before = scaler.instances
            percent = await self._percent(name, spec, reactive)
            if (instances := scaler.take(trio.current_time(), percent)) != before:
                await self._network.define(name, changed(spec, exactly(instances)))

    async def _percent(self, name: str, spec: ServiceSpec, reactive: Reactive) -> float:
        if reactive.metric == "cpu":
            return float(psutil.cpu_percent())
        counted = (await self._metrics.counted()).get(name, Counted())
        return 100 * counted.in_flight / (max(self._network.ready(name), 1) * spec.concurrency)

    def _traces(self, name: str, number: int, variant: Variant) -> Path:
        position = self._plan.variants.index(variant) + 1
        return self._folder / f"traces-{name}-variant{position}-run{number + 1}.csv"

    def _figures(
        self, number: int, variant: Variant, name: str, outcome: Outcome, waited: int
    ) -> Run:
        tally, latencies = outcome.tally, outcome.tally.intended
        began = tally.first_sent + time.time() - time.monotonic()
        ended = began + self._plan.duration_s
        cost = self._network.lives.cost(name, began, ended)
        servers = (trace.server for trace in read_csv(self._traces(name, number, variant)))
        deviation, instances = spread(servers)
        return Run(
            variant=variant.name,
            service=name,
            run=number + 1,
            asked=tally.asked,
            answered=tally.answered,
            failed=tally.failed,
            unsent=tally.unsent,
            p50_ms=latencies.quantile(50) * 1000,
            p95_ms=latencies.quantile(95) * 1000,
            p99_ms=latencies.quantile(99) * 1000,
            deviation=deviation,
            instances=instances,
            running_s=cost.running_s,
            paused_s=cost.paused_s,
            starts=cost.starts,
            most=cost.most,
            waited=waited,
            counts=tuple(self._network.lives.counts(name, began, ended)),
        )


def _waited(counted: Mapping[str, Counted], name: str) -> int:
    return counted.get(name, Counted()).waited


def due(plan: Plan) -> int:
    """Return how many requests a load's schedule has."""
    return sum(1 for _ in plan.times(Random(plan.seed)))  # noqa: S311  (load is no secret)


def not_served(tally: Tally) -> str:
    """Return how many requests failed or were not sent, and mostly why; empty if none."""
    count = tally.failed + tally.unsent
    if not count:
        return ""
    failures = {s: n for s, n in tally.statuses.items() if s >= FIRST_FAILURE}
    statuses = {f"status {status}": n for status, n in failures.items()}
    why = "".join(f": {reason}" for reason, _ in Counter(statuses | tally.reasons).most_common(1))
    return f"{count} of {tally.asked} requests were not served{why}"
