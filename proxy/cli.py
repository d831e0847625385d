"""The `proxy` command."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from overlay import options
from overlay.cli import new_app, refusing, run_app, run_daemon
from overlay.errors import SettingsInvalid
from proxy.settings import ProxySettings

_HELP = """Serve this machine's requests for services, on 127.0.0.1:PORT.

GET 127.0.0.1:PORT/SERVICE/path goes to the nearest instance of SERVICE with room; if there is
none, one is started within that request. Metrics are at port 9103.

Examples:

\b
  proxy --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk "correct horse" 4200
  curl 127.0.0.1:4200/hello-world-server
  proxy --listen 0.0.0.0:443 --tls-cert site.pem --tls-key site.key --expose hello-world-server
"""

_EDGE = "Edge"

app = new_app(_HELP)


@app.command(help=_HELP)
@refusing
def proxy(
    port: Annotated[
        int | None,
        typer.Argument(metavar="[PORT]", help="The port on 127.0.0.1.", min=0, max=65535),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve clients from outside there too, who reach what --expose names; repeatable.",
            rich_help_panel=_EDGE,
        ),
    ] = None,
    expose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE[=HOST]",
            help="Let the outside reach a service, by /SERVICE/ or as all of HOST; repeatable.",
            rich_help_panel=_EDGE,
        ),
    ] = None,
    tls_cert: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A certificate and its chain, PEM, read again when it changes; repeatable.",
            rich_help_panel=_EDGE,
        ),
    ] = None,
    tls_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Its key, PEM; repeatable.", rich_help_panel=_EDGE),
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let only clients in that show a certificate of one of these authorities.",
            rich_help_panel=_EDGE,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="myxo|envoy",
            help="Serve requests here, or have an Envoy serve those for warm services.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Answer requests with this many processes, for a machine with more cores.",
            min=1,
        ),
    ] = None,
    paths: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Have paths of your own lead to services: JSON, {"/path": "service"}, read again '
            "when it changes.",
        ),
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a JSON object a line for each request that has ended; - is standard "
            "output.",
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send spans of requests to this OpenTelemetry collector (OTLP over HTTP).",
        ),
    ] = None,
    takeover: Annotated[
        bool | None,
        typer.Option(
            "--takeover",
            help="Take the place of the proxy that runs at this port, if one does, without a "
            "refused or failed request.",
        ),
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
    version: options.Version = False,
) -> None:
    """Parse, load the settings, run."""
    del version
    settings = ProxySettings.load(
        {
            "port": port,
            "engine": engine,
            "workers": workers,
            "listen": listen,
            "expose": expose,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "client_ca": client_ca,
            "paths": paths,
            "access_log": access_log,
            "otlp_endpoint": otlp_endpoint,
            "takeover": takeover,
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
    from proxy.service import run  # noqa: PLC0415  (slow to import, and `--help` needs none of it)

    run_daemon(functools.partial(run, settings), log_level=settings.log_level, daemon="proxy")


def main() -> None:
    """Run as `proxy`."""
    run_app(app, "proxy")
