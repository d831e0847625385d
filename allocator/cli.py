"""The `allocator` command."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from allocator.settings import AllocatorSettings
from overlay import options
from overlay.cli import new_app, refusing, run_app, run_daemon
from overlay.errors import SettingsInvalid

_HELP = """Run services on this machine, when and as long as somebody needs them.

One per machine. Containers are run by the Docker engine that DOCKER_HOST names, processes as this
user. Other machines' proxies come in by the gateway, port 4443. Metrics are at port 9101.

Examples:

\b
  allocator --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk "correct horse"
  allocator --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --runtime process
"""

_HERE = "This machine"

app = new_app(_HELP)


@app.command(help=_HELP)
@refusing
def allocator(
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    hostname: options.Hostname = None,
    p2p_listen_addr: options.P2pListen = None,
    announce: options.Announce = None,
    reachable: options.Reachable = None,
    prom_listen_addr: options.PromListen = None,
    keyfile: options.Keyfile = None,
    ephemeral: options.Ephemeral = None,
    state_dir: options.StateDir = None,
    admin: options.Admin = None,
    config: options.Config = None,
    log_level: options.LogLevel = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="docker, process, or auto: Docker where an engine answers, and processes.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    gateway_listen_addr: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Where other machines' proxies reach this machine's instances.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    gateway_announce: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Advertise this address of the gateway instead; may be repeated.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    cpu_millicores: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Millicores that instances may reserve; 0 is all.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    memory_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="MiB that instances may reserve; 0 is all.", rich_help_panel=_HERE
        ),
    ] = None,
    max_instances: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most instances at once.", rich_help_panel=_HERE),
    ] = None,
    sandboxes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Networks of containers that are made beforehand; 0 makes none.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    standby_instances: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Most paused instances; 0 pauses none.", rich_help_panel=_HERE
        ),
    ] = None,
    standby_memory_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="MiB that paused instances may hold; 0 is a quarter of all.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rules on who may have what run here; policy.toml beside the settings file is "
            "taken where there is one.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What services can ask for of the machine; may be repeated.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    allow_any: Annotated[
        bool | None,
        typer.Option(
            "--allow-any",
            help="In an open network, run everybody's images.",
            rich_help_panel=_HERE,
        ),
    ] = None,
    version: options.Version = False,
) -> None:
    """Parse, load the settings, run."""
    del version
    settings = AllocatorSettings.load(
        {
            "bootstraps": bootstrap,
            "psk": psk,
            "hostname": hostname,
            "p2p_listen_addr": p2p_listen_addr,
            "announce": announce,
            "reachable": reachable,
            "prom_listen_addr": prom_listen_addr,
            "keyfile": keyfile,
            "ephemeral": ephemeral,
            "state_dir": state_dir,
            "admin": admin,
            "log_level": log_level,
            "runtime": runtime,
            "gateway_listen_addr": gateway_listen_addr,
            "gateway_announce": gateway_announce,
            "cpu_millicores": cpu_millicores,
            "memory_mib": memory_mib,
            "max_instances": max_instances,
            "sandboxes": sandboxes,
            "standby_instances": standby_instances,
            "standby_memory_mib": standby_memory_mib,
            "policy": policy,
            "labels": label,
            "allow_any": allow_any,
        },
        config,
    )
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    from allocator.service import run  # noqa: PLC0415  (slow to import, and `--help` needs none of it)

    run_daemon(functools.partial(run, settings), log_level=settings.log_level, daemon="allocator")


def main() -> None:
    """Run as `allocator`."""
    run_app(app, "allocator")
