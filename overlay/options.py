"""The typer options that every daemon's command line has, with one help text each."""

from pathlib import Path
from typing import Annotated

import typer

from overlay.cli import print_version

_NODE = "Network"

Bootstraps = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap",
        metavar="MULTIADDR",
        help="A bootstrap node to join through, such as /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo…; "
        "may be repeated. [env: P2P_BOOTSTRAPS, MYXO_BOOTSTRAPS]",
        rich_help_panel=_NODE,
    ),
]
Psk = Annotated[
    str | None,
    typer.Option(
        "--psk",
        metavar="PASSPHRASE",
        help="The network's passphrase; without one the network is open. [env: P2P_PSK, MYXO_PSK]",
        rich_help_panel=_NODE,
    ),
]
Hostname = Annotated[
    str | None,
    typer.Option(
        "--hostname",
        metavar="NAME",
        help="This machine's name in metrics and tables.",
        rich_help_panel=_NODE,
    ),
]
P2pListen = Annotated[
    str | None,
    typer.Option(
        "--p2p-listen-addr",
        metavar="[HOST]:PORT",
        help="Where the overlay listens.",
        rich_help_panel=_NODE,
    ),
]
Announce = Annotated[
    list[str] | None,
    typer.Option(
        "--announce",
        metavar="MULTIADDR",
        help="Advertise this address instead of the machine's own; may be repeated.",
        rich_help_panel=_NODE,
    ),
]
Reachable = Annotated[
    str | None,
    typer.Option(
        "--reachable",
        metavar="auto|yes|no",
        help="Whether others can dial this machine: yes, no to be reached through relays, or auto "
        "to find out.",
        rich_help_panel=_NODE,
    ),
]
PromListen = Annotated[
    str | None,
    typer.Option(
        "--prom-listen-addr",
        metavar="[HOST]:PORT",
        help="Where /metrics is served for Prometheus.",
        rich_help_panel=_NODE,
    ),
]
Keyfile = Annotated[
    Path | None,
    typer.Option(
        "--keyfile",
        metavar="FILE",
        help="This daemon's identity; made if the file does not exist.",
        rich_help_panel=_NODE,
    ),
]
Ephemeral = Annotated[
    bool | None,
    typer.Option(
        "--ephemeral", help="Use a fresh identity and store it nowhere.", rich_help_panel=_NODE
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Keys, replicas and sockets of this machine's daemons. [env: MYXO_STATE_DIR]",
        rich_help_panel=_NODE,
    ),
]
Admin = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="KEY",
        help="The founder's owner key: it may reassign names, run --process services here, ban "
        "peers and change the passphrase.",
        rich_help_panel=_NODE,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file with settings. [env: MYXO_CONFIG]",
        rich_help_panel=_NODE,
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        help="debug, info, warning or error.",
        rich_help_panel=_NODE,
    ),
]
Version = Annotated[
    bool,
    typer.Option(
        "--version", help="Show the version and exit.", is_eager=True, callback=print_version
    ),
]

NO_BOOTSTRAP = (
    "no bootstrap node is named, and this machine is in no network: found one with `myxo up`, or "
    "pass --bootstrap MULTIADDR, or set P2P_BOOTSTRAPS, or put bootstraps = [...] in the settings "
    "file"
)
