"""`myxo lab experimentd`."""

import functools
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from bench.lab.experiments.cli import Database
from overlay import options
from overlay.cli import refusing, run_daemon

if TYPE_CHECKING:  # slow to import, and `--help` needs none of it
    from bench.lab.experiments.nodes import MeasuredHosts
    from bench.lab.experiments.service import Tell
    from bench.lab.experiments.settings import ExperimentdSettings
    from bench.lab.request_trace import TraceSink

_EXPERIMENTS = "Experiments"


@refusing
def experimentd(
    database: Database = None,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            metavar="URL",
            help="Also take what is pushed to exp:experiments:instructions there.",
            rich_help_panel=_EXPERIMENTS,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--parallel",
            metavar="N",
            help="Experiments at once. [default: 1]",
            rich_help_panel=_EXPERIMENTS,
        ),
    ] = None,
    telemetry_period_s: Annotated[
        float | None,
        typer.Option(
            "--telemetry-period-s",
            metavar="S",
            help="Between two readings of the machine. [default: 1]",
            rich_help_panel=_EXPERIMENTS,
        ),
    ] = None,
    standalone: Annotated[
        bool | None,
        typer.Option(
            "--standalone",
            help="Be the only load host, without a network.",
            rich_help_panel=_EXPERIMENTS,
        ),
    ] = None,
    logging: Annotated[
        str | None,
        typer.Option(
            "--logging",
            "--log-level",
            metavar="LEVEL",
            help="debug, info, warning or error.",
            rich_help_panel=_EXPERIMENTS,
        ),
    ] = None,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    hostname: options.Hostname = None,
    state_dir: options.StateDir = None,
    config: options.Config = None,
) -> None:
    """Run the experiments that are submitted, one after the other, and record them.

    What waits outlives this daemon; what runs when it ends is FAILED, with its data kept.

    \b
    Example: myxo lab experimentd --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --logging DEBUG
    """
    from bench.lab.experiments.settings import ExperimentdSettings  # noqa: PLC0415

    settings = ExperimentdSettings.load(
        {
            "database": database,
            "redis": redis,
            "parallel": parallel,
            "telemetry_period_s": telemetry_period_s,
            "standalone": standalone,
            "log_level": logging and logging.lower(),
            "bootstraps": bootstrap,
            "psk": psk,
            "hostname": hostname,
            "state_dir": state_dir,
        },
        config,
    )
    from bench.lab.experiments.service import run  # noqa: PLC0415

    run_daemon(
        functools.partial(run, settings, open_hosts),
        log_level=settings.log_level,
        daemon="experimentd",
    )


def open_hosts(
    settings: "ExperimentdSettings", sink: "TraceSink", tell: "Tell"
) -> "AbstractAsyncContextManager[MeasuredHosts]":
    """Open the network's load hosts, or the one that is this process."""
    from bench.lab.hosts.joining import open_fleet, open_own_host  # noqa: PLC0415
    from bench.lab.hosts.settings import HostSettings  # noqa: PLC0415

    if not settings.standalone:
        return open_fleet(settings, sink, tell)
    own = {"state_dir": settings.state_dir, "hostname": settings.hostname}
    return open_own_host(HostSettings.load(own), sink, tell)
