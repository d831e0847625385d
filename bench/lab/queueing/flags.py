"""What the commands on queues share: flags, and what they and an `.env` file say."""

from collections.abc import Mapping
from typing import Annotated

import typer

from bench.lab.errors import BadInput
from bench.lab.queueing.replay import Serving, service_of
from bench.lab.traces.rows import number_of, whole

St = Annotated[
    float | None,
    typer.Option("--st", metavar="TIME", help="Mean service time, in the trace's unit."),
]
Delay = Annotated[
    int | None,
    typer.Option(
        "--delay", metavar="N", help="Customers that are served at each worker. [default: all]"
    ),
]
ServiceTimes = Annotated[
    str,
    typer.Option(
        "--service",
        metavar="NAME",
        help="Service times: exponential, constant, or size, in proportion to the file's.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def serving_of(
    said: Mapping[str, str], st: float | None, delay: int | None, service: str, seed: int
) -> Serving:
    """Return how customers are served: as flags say, else as ST and DELAY do.

    Raises:
        BadInput: nothing says how long they take, or what does cannot be used.
    """
    mean = st_of(said, st)
    if mean is None:
        raise BadInput("how long a request is served is not said: use --st, or ST in --env")
    return Serving(mean, service_of(service), delay_of(said, delay), seed)


def st_of(said: Mapping[str, str], st: float | None) -> float | None:
    """Return the mean service time: of the flag, else of ST; None where neither says it.

    Raises:
        BadInput: ST is no number.
    """
    return number_of(said["ST"], "ST") if st is None and "ST" in said else st


def delay_of(said: Mapping[str, str], delay: int | None) -> int | None:
    """Return how many customers are served: of the flag, else of DELAY; None is all.

    Raises:
        BadInput: DELAY is no whole number.
    """
    return whole(said["DELAY"], "DELAY") if delay is None and "DELAY" in said else delay
