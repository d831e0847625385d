"""The nine parameters of a trace as flags, and the `.env` file that they override."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.lab.traces.env_file import read_env

_PANEL = "Trace"


def _flag(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


Env = Annotated[
    Path | None,
    _flag("--env", "FILE", "A file of SAMPLES=…, SIZE=…, ST=… and so on; flags beat it."),
]
Samples = Annotated[int | None, _flag("--samples", "N", "Requests. [default: 500]")]
Size = Annotated[float | None, _flag("--size", "SIZE", "Mean size of a file. [default: 500]")]
InterArrival = Annotated[
    float | None, _flag("--inter-arrival", "TIME", "Mean time between arrivals. [default: 1]")
]
ReadRatio = Annotated[
    float | None, _flag("--read-ratio", "PERCENT", "Requests that read. [default: 80]")
]
Sas = Annotated[
    int | None, _flag("--sas", "N", "Size of the address space of files. [default: 5493]")
]
Distribution = Annotated[
    str | None,
    _flag(
        "--distribution",
        "NAME",
        "Of the times between arrivals: uniform, poisson or normal, or 1, 2, 3. [default: poisson]",
    ),
]
Mean = Annotated[
    float | None,
    _flag("--mean", "TIME", "Of the normal distribution. [default: --inter-arrival]"),
]
Stdev = Annotated[
    float | None, _flag("--stdev", "TIME", "Of the normal distribution. [default: mean / 3]")
]
Concurrency = Annotated[
    int | None, _flag("--concurrency", "N", "Requests that come at once. [default: 1]")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of all that is drawn.")]


def told(env: Path | None, **flags: object) -> Mapping[str, str]:
    """Return what a file's variables and flags say, in capitals; a flag beats the file.

    Raises:
        BadInput: the file cannot be used.
    """
    given = {name.upper(): str(value) for name, value in flags.items() if value is not None}
    return (read_env(env) if env else {}) | given
