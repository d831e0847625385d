"""`myxo lab compare`: policies side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.lab.errors import BadInput
from bench.lab.queueing import flags
from bench.lab.queueing.comparing import compared
from bench.lab.queueing.plotting import plot as draw
from bench.lab.queueing.replay import Serving, service_of
from bench.lab.queueing.showing import comparison_json, comparison_text
from bench.lab.traces import flags as trace_flags
from bench.lab.traces import rows
from bench.lab.traces.choosing import policies_of
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from bench.lab.traces.rows import Request
from overlay.cli import refusing

DEFAULT_ST = 0.8
MOST_RUNS = 1000

Workers = Annotated[str, typer.Option("--workers", metavar="N,N,…", help="Numbers of workers.")]
Policies = Annotated[
    str, typer.Option("--policy", metavar="NAME,NAME,…", help="Any of the proxy's.")
]
Runs = Annotated[
    int, typer.Option("--runs", metavar="N", help="Traces, each with a seed of its own.")
]
Load = Annotated[
    float | None,
    typer.Option(
        "--load",
        metavar="SHARE",
        help="Choose ST so that workers are busy for this share of the time, however many.",
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Use this trace in every run; none is made."),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: .svg, .png or .pdf.")
]


@refusing
def compare(
    workers: Workers = "1,3,5",
    policy: Policies = "rr,random,two_choices",
    runs: Runs = 5,
    st: flags.St = None,
    load: Load = None,
    delay: flags.Delay = None,
    service: flags.ServiceTimes = "exponential",
    trace: TraceFile = None,
    env: trace_flags.Env = None,
    samples: trace_flags.Samples = None,
    size: trace_flags.Size = None,
    inter_arrival: trace_flags.InterArrival = None,
    read_ratio: trace_flags.ReadRatio = None,
    sas: trace_flags.Sas = None,
    distribution: trace_flags.Distribution = None,
    mean: trace_flags.Mean = None,
    stdev: trace_flags.Stdev = None,
    concurrency: trace_flags.Concurrency = None,
    seed: trace_flags.Seed = 1,
    plot: Plot = None,
    as_json: flags.Json = False,
) -> None:
    """Compare policies: in each run all get the same trace and the same workers' streams.

    Shown are means over the runs with 95 % confidence intervals by Student's t. The difference to
    the first policy is taken within each run. ST is 0.8 unless --st, --load or ST in --env says
    another.

    \b
    Example: myxo lab compare --workers 1,3,5 --policy rr,random,two_choices --runs 5
    Example: myxo lab compare --env .env.general --load 0.8 --plot policies.svg
    """
    said = trace_flags.told(
        env,
        samples=samples,
        size=size,
        inter_arrival=inter_arrival,
        read_ratio=read_ratio,
        sas=sas,
        distribution=distribution,
        mean=mean,
        stdev=stdev,
        concurrency=concurrency,
    )
    seeds = range(seed, seed + _within("--runs", runs, MOST_RUNS))
    if trace is None:
        parameters = Parameters.of(said)
        rows.bounded(runs * parameters.samples, f"a comparison of {runs} runs")
        traces = {one: list(generate(parameters, one)) for one in seeds}
    else:
        traces = dict.fromkeys(seeds, rows.read(trace))
    if st is not None and load is not None:
        raise BadInput("--st and --load both say how long a request is served; give one of them")
    customers, its = flags.delay_of(said, delay), service_of(service)
    st = flags.st_of(said, st)
    known = DEFAULT_ST if st is None else st

    def serving(requests: Sequence[Request], count: int, run: int) -> Serving:
        mean = known if load is None else load * count * rows.mean_gap(requests)
        return Serving(mean, its, customers, run)

    found = list(compared(traces, _counts(workers), policies_of(policy), serving))
    if plot is not None:
        draw(found, plot)
    typer.echo(json.dumps(comparison_json(found)) if as_json else comparison_text(found))


def _counts(text: str) -> list[int]:
    return [rows.whole(part.strip(), "--workers") for part in text.split(",")]


def _within(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise BadInput(f"{name} is {value}; it must be 1 to {most:,}")
    return value
