"""The `bootstrap` command, also installed as `ping-monitor`."""

import functools

from bootstrap.settings import BootstrapSettings
from overlay import options
from overlay.cli import new_app, refusing, run_app, run_daemon

_HELP = """Found a network, or join one as a further bootstrap node, and monitor RTTs.

Prints the addresses that the other daemons take as --bootstrap. Serves ping_rtt and
ping_ewma_rtt (milliseconds) and myxo_* (seconds) at /metrics, port 9100.

Examples:

\b
  bootstrap --psk "correct horse"
  bootstrap --psk "correct horse" --bootstrap /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo...
"""

app = new_app(_HELP)


@app.command(help=_HELP)
@refusing
def bootstrap(
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
    settings = BootstrapSettings.load(
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
        },
        config,
    )
    from bootstrap.service import run  # noqa: PLC0415  (slow to import, and `--help` needs none of it)

    run_daemon(functools.partial(run, settings), log_level=settings.log_level, daemon="bootstrap")


def main() -> None:
    """Run as `bootstrap`."""
    run_app(app, "bootstrap")


def ping_monitor() -> None:
    """Run as `ping-monitor`."""
    run_app(app, "ping-monitor")
