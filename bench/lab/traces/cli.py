"""`myxo lab trace`: traces of requests."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.lab.errors import BadInput
from bench.lab.traces import flags, rows
from bench.lab.traces.choosing import Chooser, policy_of, weights_of
from bench.lab.traces.generating import generate
from bench.lab.traces.importing import column_map, imported
from bench.lab.traces.parameters import Parameters
from bench.lab.traces.rows import Request
from bench.lab.traces.splitting import Share, split
from bench.lab.traces.summary import Summary, summarised
from bench.stats import table
from overlay.cli import new_app, refusing

_HELP = """Traces of requests: five columns, no header: cumulative arrival, worker, operation,
space, filesize.

Examples:

\b
  myxo lab trace gen --samples 500 --inter-arrival 1 --distribution normal -o trace.csv
  myxo lab trace summary trace.csv
  myxo lab trace split trace.csv --workers 3 --policy rr
  myxo lab trace import access.csv --columns arrival=ts,filesize=bytes -o trace.csv
"""

trace_app = new_app(_HELP, no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write it, not the terminal."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace.")]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="How many.")]
Policy = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Any of the proxy's: rr, random, two_choices, peak_ewma, ring_hash, …",
    ),
]
Weights = Annotated[
    str,
    typer.Option("--weights", metavar="W,W,…", help="Of the workers, for policies that weigh."),
]


@trace_app.command()
@refusing
def gen(
    env: flags.Env = None,
    samples: flags.Samples = None,
    size: flags.Size = None,
    inter_arrival: flags.InterArrival = None,
    read_ratio: flags.ReadRatio = None,
    sas: flags.Sas = None,
    distribution: flags.Distribution = None,
    mean: flags.Mean = None,
    stdev: flags.Stdev = None,
    concurrency: flags.Concurrency = None,
    seed: flags.Seed = 1,
    output: Output = None,
) -> None:
    """Make a trace; the same seed and parameters make the same bytes everywhere.

    \b
    Example: myxo lab trace gen --samples 500 --size 500 --inter-arrival 1 --read-ratio 80 \\
               --sas 5493 --distribution normal --mean 1 --stdev 1 --concurrency 1 -o trace.csv
    Example: myxo lab trace gen --env .env.general --seed 7 -o trace.csv
    """
    said = flags.told(
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
    _put(generate(Parameters.of(said), seed), output)


@trace_app.command()
@refusing
def summary(file: TraceFile, as_json: Json = False) -> None:
    """Say what a trace turned out to be: its realised moments.

    \b
    Example: myxo lab trace summary trace.csv
    """
    found = summarised(rows.read(file))
    typer.echo(json.dumps(asdict(found)) if as_json else _summary_text(found))


@trace_app.command("split")
@refusing
def split_trace(
    file: TraceFile,
    workers: Workers = 3,
    policy: Policy = "rr",
    weights: Weights = "",
    seed: flags.Seed = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder. [default: beside FILE]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give each request to a worker, and write a file for each: FILE's name with `.w1`, `.w2`, ….

    Nobody serves here: policies that look at how busy a worker is see what it was given so far.
    `myxo lab sim trace` splits by the queues.

    \b
    Example: myxo lab trace split trace.csv --workers 3 --policy rr
    """
    chooser = Chooser(policy_of(policy), weights_of(weights, workers), seed)
    shares = split(rows.read(file), chooser)
    folder = output or file.parent
    _make(folder)
    paths = [folder / f"{file.stem}.w{n}{file.suffix}" for n in range(1, workers + 1)]
    for path, share in zip(paths, shares, strict=True):
        rows.write(share.requests, path)
    if as_json:
        typer.echo(json.dumps([_told(*pair) for pair in zip(paths, shares, strict=True)]))
    else:
        typer.echo(_shares_text(paths, shares))


@trace_app.command("import")
@refusing
def import_trace(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A CSV with a header.")],
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            metavar="OURS=THEIRS,…",
            help="Which column is arrival, worker, operation, space, filesize: by its name, or "
            "its number from 1. All but arrival may be left out.",
        ),
    ],
    scale: Annotated[
        float,
        typer.Option(
            "--scale", metavar="X", help="Multiply times by it: 0.001 makes seconds of ms."
        ),
    ] = 1.0,
    output: Output = None,
) -> None:
    """Make a trace of another program's CSV. Rows are sorted; the first request arrives at 0.

    \b
    Example: myxo lab trace import access.csv --columns arrival=ts,filesize=bytes --scale 0.001
    """
    at = column_map(columns)
    try:
        with file.open(newline="", encoding="utf-8") as text:
            requests = imported(text, str(file), at, scale)
    except (OSError, UnicodeDecodeError) as exc:
        raise rows.unreadable(file, exc) from exc
    _put(requests, output)


def _put(requests: Iterable[Request], output: Path | None) -> None:
    if output is None:
        sys.stdout.writelines(rows.lines(requests))
    else:
        rows.write(requests, output)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"{folder} cannot be made: {exc.strerror}") from exc


def _summary_text(found: Summary) -> str:
    lines = {
        "requests": f"{found.requests:,}",
        "span": f"{found.span:,.3f}",
        "requests in a unit of time": f"{found.rate:.4f}",
        "gap, mean": f"{found.gap_mean:.4f}",
        "gap, standard deviation": f"{found.gap_stdev:.4f}",
        "gap, deviation ÷ mean": f"{found.gap_variation:.4f}",
        "reads, %": f"{found.read_percent:.1f}",
        "file size, mean": f"{found.filesize_mean:,.1f}",
        "file size, standard deviation": f"{found.filesize_stdev:,.1f}",
        "different places": f"{found.places:,}",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def _told(path: Path, share: Share) -> dict[str, object]:
    return {
        "file": str(path),
        "requests": len(share.requests),
        "mean_gap": rows.mean_gap(share.requests),
    }


def _shares_text(paths: Iterable[Path], shares: Iterable[Share]) -> str:
    found = [
        [str(path), f"{len(share.requests):,}", f"{rows.mean_gap(share.requests):.4f}"]
        for path, share in zip(paths, shares, strict=True)
    ]
    return table(["file", "requests", "mean gap"], found)
