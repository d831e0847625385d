"""`myxo lab host` and `myxo lab app`."""

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from bench.lab.hosts.apps import Deployed, pack
from bench.lab.hosts.settings import HostSettings
from overlay import options
from overlay.cli import new_app, refusing, run_daemon
from overlay.errors import SettingsInvalid
from overlay.settings import chosen_state_dir

_APP_HELP = """Clients of one's own, for load hosts: Python that says what each request is.

A client is a Python file, or a folder with manifest.yml, which names it, and generator.py, with a
function next_request() that returns method, path and keyword arguments as `requests` takes them.
Load hosts are sent what they lack when clients are spawned.

Examples:

\b
  myxo lab app deploy --path ./classify
  myxo lab app ls
  myxo lab app rm classify
"""

app_app = new_app(_APP_HELP, no_args_is_help=True)


@refusing
def host(
    proxy: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where clients ask for services. [default: :4200]"),
    ] = None,
    trace_logging: Annotated[
        str | None,
        typer.Option(
            "--trace-logging",
            metavar="stream|file|sql|off",
            help="Where traces go: to who commands, a file, the experiments' database, nowhere.",
        ),
    ] = None,
    trace_file: Annotated[
        Path | None, typer.Option("--trace-file", metavar="FILE", help="With --trace-logging file.")
    ] = None,
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
) -> None:
    """Make this machine a load host: it runs clients for whoever may command it.

    That is the network's admin, this machine's own user, and whom `myxo allow` names: clients may
    be Python of theirs.

    \b
    Example: myxo lab host --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk "correct horse"
    """
    settings = HostSettings.load(
        {
            "proxy": proxy,
            "trace_logging": trace_logging,
            "trace_file": trace_file,
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
        },
        config,
    )
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    from bench.lab.hosts.service import run  # noqa: PLC0415  (slow to import, `--help` needs none)

    run_daemon(functools.partial(run, settings), log_level=settings.log_level, daemon="load-host")


@app_app.command()
@refusing
def deploy(
    path: Annotated[Path, typer.Option("--path", metavar="PATH", help="A folder, or a file.")],
    state_dir: options.StateDir = None,
) -> None:
    """Keep a client, instead of one that had its name.

    \b
    Example: myxo lab app deploy --path ./classify
    """
    package = pack(path)
    _deployed(state_dir).put(package)
    typer.echo(f"{package.name}  {len(package.data)} bytes  {package.digest[:12]}")


@app_app.command("ls")
@refusing
def list_(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the clients that are deployed.

    \b
    Example: myxo lab app ls
    """
    packages = _deployed(state_dir).all()
    if as_json:
        rows = [{"name": p.name, "bytes": len(p.data), "sha256": p.digest} for p in packages]
        typer.echo(json.dumps(rows))
        return
    for package in packages:
        typer.echo(f"{package.name}  {len(package.data)} bytes  {package.digest[:12]}")


@app_app.command("rm")
@refusing
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client's name.")],
    state_dir: options.StateDir = None,
) -> None:
    """Forget a client; those that run go on.

    \b
    Example: myxo lab app rm classify
    """
    _deployed(state_dir).remove(name)


def _deployed(state_dir: Path | None) -> Deployed:
    return Deployed.below(chosen_state_dir(state_dir))
