"""`myxo lab queues` and `myxo lab results`: queues as services on Myxo, and what they found."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.lab.errors import BadInput
from bench.lab.queueing import flags
from bench.lab.queueing.replay import served
from bench.lab.queueing.results import Results, RunResult
from bench.lab.queueing.settings import QueueSettings
from bench.lab.queueing.showing import run_text
from bench.lab.traces import flags as trace_flags
from bench.lab.traces import rows
from bench.lab.traces.choosing import Chooser, policy_of, weights_of
from bench.lab.traces.cli import Weights
from bench.lab.traces.generating import generate
from bench.lab.traces.parameters import Parameters
from overlay.cli import new_app, refuse, refusing
from overlay.logs import configure_logs

_HELP = """Queue simulators as services on Myxo, one container each.

Example:

\b
  myxo lab queues run --env .env.general --workers 3 --policy rr
"""

DEFAULT_WORKERS = 3

queues_app = new_app(_HELP, no_args_is_help=True)

Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="How many. [default: WORKERS in --env, or 3]"),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Any of the proxy's: rr, random, two_choices, … [default: BALANCER in --env, or rr]",
    ),
]
Runtime = Annotated[
    Literal["auto", "docker", "process"],
    typer.Option("--runtime", help="What workers are; auto is containers where an engine answers."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="IMAGE",
        help="What the workers' image is made from: any with python3 and /bin/sh. "
        "[default: python:3.12-slim]",
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Serve this trace; none is made."),
]


@queues_app.callback()
def queues() -> None:
    """Take the sub-command."""


@queues_app.command("run")
@refusing
def run_queues(
    env: trace_flags.Env = None,
    workers: Workers = None,
    policy: Policy = None,
    weights: Weights = "",
    st: flags.St = None,
    delay: flags.Delay = None,
    service: flags.ServiceTimes = "exponential",
    trace: TraceFile = None,
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
    runtime: Runtime = "auto",
    base: Base = None,
    as_json: flags.Json = False,
) -> None:
    """Make a trace, split it, and have each share served by a worker that Myxo starts.

    Each worker is a container that answers a POST of its share with the figures of its queue; the
    network is this machine's, or one that is founded for the run. With SERVER_IP in --env, and
    SERVER_PORT, API_VERSION, the containers run on that Docker engine. The results are kept:
    `myxo lab results`.

    \b
    Example: myxo lab queues run --env .env.general --workers 3 --policy rr
    """
    keep_runs = QueueSettings.load({}).keep_runs
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
        workers=workers,
        balancer=policy,
    )
    serving = flags.serving_of(said, st, delay, service, seed)
    chosen = policy_of(said.get("BALANCER", "rr"))
    count = rows.whole(said["WORKERS"], "WORKERS") if "WORKERS" in said else DEFAULT_WORKERS
    requests = list(generate(Parameters.of(said), seed)) if trace is None else rows.read(trace)
    shares = served(requests, Chooser(chosen, weights_of(weights, count), seed), serving)
    about = {
        "policy": chosen,
        "ST": serving.mean,
        "DELAY": serving.customers,
        "service": serving.service,
        "trace": str(trace or env or "made"),
        "requests": len(requests),
        "seed": seed,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # Imported here: a program that simulates in its own process needs no network.
    from bench.lab.queueing import engine, runs  # noqa: PLC0415

    configure_logs("error")
    at_engine = engine.engine_of(said) if runtime != "process" else None
    where = runs.Where(runtime, at_engine, base or engine.BASE)
    try:
        ran, found = runs.run_on_workers(requests, shares, serving, where)
    except BaseExceptionGroup as group:
        refuse(group)
        raise
    store = Results(most=keep_runs)
    name = store.keep(about | {"runtime": ran}, found)
    _show(store.run(name), as_json=as_json)


@refusing
def results(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run's name; without one they are listed."),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Show what runs of `myxo lab queues` found: the four figures of each worker, and its share.

    \b
    Example: myxo lab results W3_round_robin_T1
    """
    store = Results()
    if run is not None:
        _show(store.run(run), as_json=as_json)
        return
    names = store.runs()
    if as_json:
        typer.echo(json.dumps(names))
    elif names:
        typer.echo("\n".join(names))
    else:
        raise BadInput("no run was kept yet; `myxo lab queues run` makes one")


def _show(found: RunResult, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo(run_text(found))
