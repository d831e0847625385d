"""`myxo lab load`: sends load, and makes loads of what other tools wrote."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from typer.core import TyperGroup

from bench.lab.errors import BadInput
from bench.lab.loading.har import read_har
from bench.lab.loading.imported import Imported
from bench.lab.loading.k6 import read_k6
from bench.lab.loading.plan import Plan, make_plan, read_plan
from overlay.cli import FAILED, new_app, refusing

_HELP = """Send requests when they are due, whatever the answers do, and say what became of them.

Examples:

\b
  myxo lab load http://127.0.0.1:8080/ --profile constant:1000 --duration 10s
  myxo lab load hello-world-server --profile sine:80,100s --arrival expovariate --duration 5m
  myxo lab load import k6 script.js -o load.json && myxo lab load load.json

What stands before the target is `run`, which may be left out; `myxo lab load run --help` has all
flags.
"""

_IMPORT_HELP = """Make a load file of what another tool wrote.

Examples:

\b
  myxo lab load import k6 script.js -o load.json
  myxo lab load import har recording.har --origin https://example.org -o load.json
"""

FILES = frozenset({".json", ".yml", ".yaml"})
MOST_FILE_BYTES = 256 * 1024 * 1024
"""Of what is imported."""


class _RunByDefault(TyperGroup):
    """Takes what is no command for the target of `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` where it was left out."""
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


load_app = new_app(_HELP, no_args_is_help=True, cls=_RunByDefault)
import_app = new_app(_IMPORT_HELP, no_args_is_help=True)
load_app.add_typer(import_app, name="import")

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="A URL, SERVICE[/PATH], or a load file.")
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="PROFILE",
        help="Requests a second over time: constant:RATE, sine:MAX,PERIOD, "
        "walk:MU,SIGMA,MAX[,MIN], ticks:RATE,..., step:FIRST,STEP[,MAX], "
        "stages:FIRST,DURATION:RATE,... or csv:FILE.",
    ),
]
Interval = Annotated[
    str | None, typer.Option("--interval", metavar="S", help="Of ticks, steps and strides. [1s]")
]
Arrival = Annotated[
    str | None,
    typer.Option(
        "--arrival",
        metavar="NAME[:P,...]",
        help="The time between requests: constant, expovariate and others of Python's random, or "
        "prerecorded:FILE. With a profile its mean is the profile's; else it is in seconds.",
    ),
]
Duration = Annotated[
    str | None, typer.Option("--duration", metavar="S", help="In which requests are due.")
]
Count = Annotated[int | None, typer.Option("--count", metavar="N", help="Of requests.")]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--at-once", metavar="N", help="N requests at once, each sent when one is answered."
    ),
]
Method = Annotated[str | None, typer.Option("--method", metavar="METHOD", help="[default: GET]")]
Header = Annotated[
    list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="May be repeated.")
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="TEXT|@FILE", help="The body; makes it a POST.")
]
CustomClient = Annotated[
    Path | None,
    typer.Option("--client", metavar="DIR", help="A custom client: next_request() in Python."),
]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", metavar="NAME=VALUE", help="Of the custom client; VALUE is JSON."),
]
Processes = Annotated[
    int, typer.Option("--processes", metavar="N", min=1, max=256, help="That share the load.")
]
Traces = Annotated[
    Path | None, typer.Option("--traces", metavar="FILE.csv", help="Where each request is told.")
]
Connections = Annotated[
    int, typer.Option("--connections", metavar="N", min=1, help="Open at once, at most.")
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=0.001, help="Per request.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of every draw.")]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy", metavar="HOST:PORT", help="That services are asked at. [env: MYXO_PROXY]"
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Take any certificate.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Else it is printed.")
]
ImportTarget = Annotated[
    str | None, typer.Option("--target", metavar="URL|SERVICE", help="To whom the load goes.")
]


@load_app.command()
@refusing
def run(
    target: Target,
    profile: Profile = None,
    interval: Interval = None,
    arrival: Arrival = None,
    duration: Duration = None,
    count: Count = None,
    at_once: AtOnce = None,
    method: Method = None,
    header: Header = None,
    data: Data = None,
    client: CustomClient = None,
    parameter: Parameter = None,
    seed: Seed = None,
    processes: Processes = 1,
    traces: Traces = None,
    connections: Connections = 1000,
    timeout: Timeout = 60.0,
    proxy: Proxy = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Send a load and print what became of it; Ctrl-C ends it early.

    \b
    Examples:
      myxo lab load run http://127.0.0.1:8080/ --profile constant:1000 --duration 10s
      myxo lab load run hello-world-server --arrival gauss:0.1,0.02 --count 100 --traces t.csv
      myxo lab load run http://127.0.0.1:8080/ --at-once 32 --duration 10s --processes 2
    """
    said = {
        "profile": profile,
        "interval": interval,
        "arrival": arrival,
        "duration": duration,
        "count": count,
        "at_once": at_once,
        "client": client,
        "parameters": _parameters(parameter) or None,
        "requests": _requests(method, header, data),
        "seed": seed,
    }
    from bench.lab.loading.processes import Options, run_load  # noqa: PLC0415
    from bench.lab.loading.showing import figures, text  # noqa: PLC0415

    plan = _plan(target, {name: value for name, value in said.items() if value is not None})
    options = Options(processes, proxy, traces, connections, timeout, verify=not insecure)
    outcome = trio.run(run_load, plan, options, _progress if sys.stderr.isatty() else _silent)
    print(json.dumps(figures(outcome)) if as_json else text(outcome))
    if not outcome.tally.answered:
        raise typer.Exit(FAILED)


@import_app.command("k6")
@refusing
def import_k6(
    file: Annotated[Path, typer.Argument(metavar="SCRIPT.js|SUMMARY", help="What k6 has.")],
    target: ImportTarget = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", metavar="NAME", help="Of several; else the first.")
    ] = None,
    output: Output = None,
) -> None:
    """Read a k6 script, its options as `k6 inspect` prints them, or the summary of a run.

    \b
    Example: myxo lab load import k6 script.js -o load.json
    """
    _write(read_k6(_content(file), scenario), target, output)


@import_app.command("har")
@refusing
def import_har(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A HAR.")],
    origin: Annotated[
        str | None, typer.Option("--origin", metavar="URL", help="Whose requests are kept.")
    ] = None,
    target: ImportTarget = None,
    output: Output = None,
) -> None:
    """Read a browser's recording, and send its requests when the browser did.

    \b
    Example: myxo lab load import har recording.har -o load.json
    """
    _write(read_har(_content(file), origin), target, output)


def _plan(target: str, said: dict[str, Any]) -> Plan:
    path = Path(target)
    if path.suffix in FILES and "://" not in target:
        return read_plan(path, said)
    return make_plan({"target": target} | said)


def _requests(
    method: str | None, header: Sequence[str] | None, data: str | None
) -> list[dict[str, Any]] | None:
    if method is None and not header and data is None:
        return None
    asked: dict[str, Any] = {"method": method or ("GET" if data is None else "POST")}
    kwargs: dict[str, Any] = {}
    if header:
        kwargs["headers"] = [_header(one) for one in header]
    if data is not None and data.startswith("@"):
        asked["body_file"] = data[1:]
    elif data is not None:
        kwargs["content"] = data
    return [asked | {"kwargs": kwargs}]


def _header(written: str) -> tuple[str, str]:
    name, colon, value = written.partition(":")
    if not colon:
        raise BadInput(f"--header {written!r} is not `NAME: VALUE`")
    return name.strip(), value.strip()


def _parameters(written: Sequence[str] | None) -> dict[str, Any]:
    found = {}
    for one in written or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise BadInput(f"--parameter {one!r} is not NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise BadInput(f"{path} is larger than {MOST_FILE_BYTES} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path} cannot be read: {exc}") from exc


def _write(found: Imported, target: str | None, output: Path | None) -> None:
    """Write a load file, and say what is not in it."""
    said = dict(found.plan)
    if target is not None:
        said["target"] = target
    for note in found.notes:
        typer.echo(note, err=True)
    if "target" not in said:
        raise BadInput("the file does not say what to ask: give it by --target")
    make_plan(said, "what was read")
    written = json.dumps(said, indent=2, ensure_ascii=False)
    if output is None:
        print(written)
    else:
        output.write_text(f"{written}\n")


def _progress(counts: Mapping[str, int]) -> None:
    line = " · ".join(f"{name} {count:,}" for name, count in counts.items())
    print(f"\r{line} ", end="", file=sys.stderr, flush=True)


def _silent(counts: Mapping[str, int]) -> None:
    del counts
