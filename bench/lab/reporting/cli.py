"""`myxo lab report`: one experiment over several policies, and what comes of it."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from bench.lab.errors import BadInput
from bench.lab.reporting.network import open_tested
from bench.lab.reporting.pages import Report, as_text
from bench.lab.reporting.plan import ReportPlan, make_plan, read_plan
from bench.lab.reporting.proxy_metrics import ProxyMetrics, metrics_url
from bench.lab.reporting.running import Comparison
from bench.machine import machine_line
from overlay import options
from overlay.cli import FAILED, refusing, run_daemon
from overlay.errors import SettingsInvalid
from registry.settings import CliSettings

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PLAN.toml] SERVICE...", help="Services of this network, or a plan."),
]
Policies = Annotated[
    str | None,
    typer.Option("--policies", metavar="NAME,NAME,…", help="The proxy's. [default: as defined]"),
]
Scalings = Annotated[
    list[str] | None,
    typer.Option(
        "--scaling",
        metavar="NAME:FIELD=N,…",
        help="A way to scale: concurrency, min_instances, max_instances, min_state, idle_pause_s, "
        "idle_stop_s; or up, down, cooldown_s, … of reactive autoscaling. May be repeated.",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="PROFILE", help="As of `lab load`. [default: constant:10]"),
]
Arrival = Annotated[
    str | None,
    typer.Option("--arrival", metavar="NAME", help="As of `lab load`. [default: expovariate]"),
]
Duration = Annotated[
    str | None, typer.Option("--duration", metavar="S", help="Of each run. [default: 30s]")
]
Runs = Annotated[
    int | None, typer.Option("--runs", metavar="N", help="Of each variant. [default: 3]")
]
Below = Annotated[
    str | None, typer.Option("--path", metavar="PATH", help="What is asked for, below a service.")
]
Client = Annotated[
    Path | None,
    typer.Option(
        "--client",
        metavar="DIR",
        help="A client of your own (manifest.yml, generator.py) that makes the requests.",
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Of all schedules. [default: 1]")
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Where the report is written.")
]
Proxy = Annotated[
    str | None,
    typer.Option("--proxy", metavar="HOST:PORT", help="Of this machine. [env: MYXO_PROXY]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_REACTIVE = frozenset(
    {"metric", "up", "down", "cooldown_s", "window_s", "period_s", "least", "most"}
)


@refusing
def report(
    targets: Targets = None,
    policies: Policies = None,
    scaling: Scalings = None,
    profile: Profile = None,
    arrival: Arrival = None,
    duration: Duration = None,
    runs: Runs = None,
    path: Below = None,
    client: Client = None,
    seed: Seed = None,
    output: Output = Path("report"),
    proxy: Proxy = None,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    as_json: Json = False,
) -> None:
    """Run one experiment over several policies and ways to scale; write a report.

    Each run changes the services' definitions, which only their owner can, and at the end they are
    what they were. The report has latencies, fairness, instance-seconds, cold starts and failures,
    with 95 % confidence intervals: report.html, report.md, runs.csv and pictures.

    \b
    Examples:
      myxo lab report --policies peak_ewma,round_robin,random --profile constant:50 hello
      myxo lab report --scaling kept:min_instances=2 --scaling reactive:up=80,down=25 hello
      myxo lab report plan.toml -o out
    """
    said = {
        "policies": None if policies is None else [name.strip() for name in policies.split(",")],
        "scaling": [_scaling(text) for text in scaling] if scaling else None,
        "profile": profile,
        "arrival": arrival,
        "duration": duration,
        "runs": runs,
        "path": path,
        "client": client,
        "seed": seed,
    }
    plan = _plan(targets or [], {name: value for name, value in said.items() if value is not None})
    settings = CliSettings.load({"bootstraps": bootstrap, "psk": psk})
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"the report cannot be written to {output}: {exc.strerror}") from exc
    made: list[Report] = []
    run_daemon(partial(_compare, plan, settings, output, proxy, made), log_level="error")
    if not made:
        raise typer.Exit(FAILED)
    made[0].write(output)
    print(as_text(made[0], as_json=as_json), flush=True)  # before the line on stderr
    print(f"see {output / 'report.html'}", file=sys.stderr)


async def _compare(
    plan: ReportPlan, settings: CliSettings, folder: Path, proxy: str | None, made: list[Report]
) -> None:
    url = await metrics_url(settings.state_dir)
    async with httpx.AsyncClient() as client, open_tested(settings) as network:
        comparison = Comparison(plan, network, ProxyMetrics(url, client), folder, proxy)
        found = await comparison.runs(partial(print, file=sys.stderr, flush=True))
    made.append(Report(plan, found, machine_line()))


def _plan(targets: list[str], said: dict[str, Any]) -> ReportPlan:
    if targets and targets[0].endswith(".toml"):
        path, *services = targets
        return read_plan(Path(path), said | ({"services": services} if services else {}))
    if not targets:
        raise BadInput("name a service, or a plan in a .toml file; --help has examples")
    return make_plan(said | {"services": targets})


def _scaling(text: str) -> dict[str, Any]:
    """Return what `NAME:FIELD=N,…` says, as a plan says it."""
    name, colon, fields = text.partition(":")
    said: dict[str, Any] = {"name": name}
    reactive: dict[str, Any] = {}
    for part in fields.split(",") if colon else ():
        field, equals, value = part.strip().partition("=")
        if not equals:
            raise BadInput(f"--scaling {text}: {part!r} is not FIELD=VALUE")
        (reactive if field in _REACTIVE else said)[field] = value
    return said | ({"reactive": reactive} if reactive else {})
