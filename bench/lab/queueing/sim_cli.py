"""`myxo lab sim`: queues in this process."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from bench.lab.queueing import flags
from bench.lab.queueing.replay import figures, served, together
from bench.lab.queueing.results import WorkerResult
from bench.lab.queueing.showing import figures_text, workers_text
from bench.lab.queueing.textbook import book as as_the_book_does
from bench.lab.traces import rows
from bench.lab.traces.choosing import Chooser, policy_of, weights_of
from bench.lab.traces.cli import Policy, TraceFile, Weights, Workers
from bench.lab.traces.flags import Env, Seed, told
from overlay.cli import new_app, refusing

_HELP = """Queue simulators: average delay in queue, average number in queue, utilisation and end,
as Law and Kelton's program prints them, and quantiles; beside them what theory expects.

Examples:

\b
  myxo lab sim mm1 1.0 0.5 1000
  myxo lab sim mmc 1.0 2.4 1000000 --servers 3
  myxo lab sim md1 1.0 0.8 1000000
  myxo lab sim trace trace.csv --workers 3 --policy two_choices --st 2
"""

sim_app = new_app(_HELP, no_args_is_help=True)

InterArrival = Annotated[
    float, typer.Argument(metavar="INTERARRIVAL", help="Mean time between arrivals.")
]
Service = Annotated[float, typer.Argument(metavar="SERVICE", help="Mean service time.")]
Customers = Annotated[
    int,
    typer.Argument(metavar="CUSTOMERS", help="It ends when this one begins to be served."),
]


@sim_app.command()
@refusing
def mm1(
    interarrival: InterArrival,
    service: Service,
    customers: Customers,
    seed: Seed = 1,
    book: Annotated[
        bool, typer.Option("--book", help="Use Law and Kelton's own generator and stream.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """One server, exponential times.

    \b
    Example: myxo lab sim mm1 1.0 0.5 1000
    Example: myxo lab sim mm1 1.0 0.5 1000 --book    prints the book's figures
    """
    _model(interarrival, service, customers, seed, book=book, as_json=as_json)


@sim_app.command()
@refusing
def mmc(
    interarrival: InterArrival,
    service: Service,
    customers: Customers,
    servers: Annotated[int, typer.Option("--servers", metavar="C", help="On the one queue.")] = 3,
    seed: Seed = 1,
    as_json: flags.Json = False,
) -> None:
    """Several servers on one queue, exponential times.

    \b
    Example: myxo lab sim mmc 1.0 2.4 1000000 --servers 3
    """
    _model(interarrival, service, customers, seed, servers=servers, as_json=as_json)


@sim_app.command()
@refusing
def md1(
    interarrival: InterArrival,
    service: Service,
    customers: Customers,
    seed: Seed = 1,
    as_json: flags.Json = False,
) -> None:
    """One server, service times that are all the same.

    \b
    Example: myxo lab sim md1 1.0 0.8 1000000
    """
    _model(interarrival, service, customers, seed, spread="constant", as_json=as_json)


def _model(
    interarrival: float,
    service: float,
    customers: int,
    seed: int,
    *,
    servers: int = 1,
    spread: Literal["exponential", "constant"] = "exponential",
    book: bool = False,
    as_json: bool,
) -> None:
    from bench.lab.queueing.models import Model, checked, simulated  # noqa: PLC0415

    model = Model(interarrival, service, servers, spread)
    if book:
        found = as_the_book_does(interarrival, service, checked(customers))
    else:
        found = simulated(model, customers, seed)
    expected = model.expected()
    if as_json:
        theory = asdict(expected) if expected else None
        typer.echo(json.dumps(asdict(found) | {"expected": theory}))
        return
    typer.echo(figures_text(found, expected))
    if model.load >= 1:
        typer.echo(f"\nThe load is {model.load:.2f}: the queue grows without end.")


@sim_app.command()
@refusing
def trace(
    file: TraceFile,
    st: flags.St = None,
    env: Env = None,
    workers: Workers = 3,
    policy: Policy = "rr",
    weights: Weights = "",
    delay: flags.Delay = None,
    service: flags.ServiceTimes = "exponential",
    seed: Seed = 1,
    as_json: flags.Json = False,
) -> None:
    """Serve a trace by several workers: its own arrivals, a policy that sees the queues.

    \b
    Example: myxo lab sim trace trace.csv --workers 3 --policy two_choices --st 2
    """
    serving = flags.serving_of(told(env), st, delay, service, seed)
    chooser = Chooser(policy_of(policy), weights_of(weights, workers), seed)
    shares = served(rows.read(file), chooser, serving)
    results = [
        WorkerResult(
            number,
            len(share.requests),
            rows.mean_gap(share.requests),
            "",
            figures(share, serving.customers),
        )
        for number, share in enumerate(shares, 1)
    ]
    whole = together(shares, serving.customers)
    if as_json:
        found = {"workers": [asdict(one) for one in results], "all": asdict(whole)}
        typer.echo(json.dumps(found))
    else:
        typer.echo(workers_text(results, whole))
