"""The `myxo` command: a network on this machine, its state, and the daemons as sub-commands."""

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import trio
import typer

from myxo import distances, keys
from myxo.install import enable, install
from myxo.network import Part, founding, join_command, joining, run
from myxo.status import print_status, read_status
from myxo.watching import print_changes
from overlay import options
from overlay.cli import new_app, refusing, run_app, run_daemon
from overlay.errors import MyxoError, SettingsInvalid
from overlay.settings import NodeSettings, state_dir

_DAEMONS = {
    "bootstrap": ("bootstrap.cli", "app"),
    "ping-monitor": ("bootstrap.cli", "app"),
    "allocator": ("allocator.cli", "app"),
    "registry-service": ("registry.cli", "service_app"),
    "registry-cli": ("registry.cli", "cli_app"),
    "proxy": ("proxy.cli", "app"),
}
"""Loaded only when asked for: each brings libraries that the others do not need."""

_HELP = f"""Ask any machine for a service by name; if none runs, one is started, in that request.

Examples:

\b
  myxo up                                  found a network on this machine
  myxo join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk ...     on the next machine
  curl 127.0.0.1:4200/hello-world-server

The daemons are sub-commands too: {", ".join(_DAEMONS)}.
"""

_KEY_HELP = """Show, export or import this person's owner key, which names belong to.

Examples:

\b
  myxo key show
  myxo key export alice.key     here; then, on the other machine:
  myxo key import alice.key
"""

_INSTALL_HELP = """Write systemd units that keep this machine's part running over reboots.

Examples:

\b
  sudo myxo install up
  sudo myxo install join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk ...
"""

app = new_app(_HELP, no_args_is_help=True)
key_app = new_app(_KEY_HELP, no_args_is_help=True)
install_app = new_app(_INSTALL_HELP, no_args_is_help=True)
app.add_typer(key_app, name="key")
app.add_typer(install_app, name="install")

ProxyPort = Annotated[
    int, typer.Option("--proxy-port", metavar="PORT", help="The proxy's port on 127.0.0.1.")
]
Runtime = Annotated[str, typer.Option("--runtime", metavar="NAME", help="auto, docker or process.")]
Etcd = Annotated[
    list[str] | None,
    typer.Option("--etcd", metavar="ENDPOINT", help="Keep definitions in this etcd; repeatable."),
]
UpPsk = Annotated[
    str | None,
    typer.Option(
        "--psk",
        metavar="PASSPHRASE",
        help="The network's passphrase; if none is given, one is made at the first start and "
        "kept. [env: P2P_PSK, MYXO_PSK]",
    ),
]
Open = Annotated[
    bool, typer.Option("--open", help="Found without a passphrase: everybody may join.")
]
UpListen = Annotated[
    str, typer.Option("--p2p-listen-addr", metavar="[HOST]:PORT", help="Of the bootstrap node.")
]
Addresses = Annotated[
    list[str], typer.Argument(metavar="MULTIADDR", help="Bootstrap nodes of the network.")
]
AllocatorFlag = Annotated[
    list[str] | None,
    typer.Option("--allocator-flag", metavar="FLAG", help="Passed to the allocator; repeatable."),
]
Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="Write units below DIR, start nothing."),
]


class FirstSettings(NodeSettings):
    """Settings of who founds or joins a network: those of another network do not count."""

    uses_joined_network: ClassVar[bool] = False


@app.callback()
def myxo(version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version


@app.command()
@refusing
def up(
    psk: UpPsk = None,
    open_to_all: Open = False,
    p2p_listen_addr: UpListen = ":4001",
    proxy_port: ProxyPort = 4200,
    runtime: Runtime = "auto",
    etcd: Etcd = None,
    hostname: options.Hostname = None,
    state_dir: options.StateDir = None,
    allocator_flag: AllocatorFlag = None,
    log_level: options.LogLevel = None,
) -> None:
    """Found a network on this machine and print the line that joins the next one.

    Runs a bootstrap node, the registry, an allocator and a proxy until Ctrl-C. The passphrase is
    made at the first start and kept.

    \b
    Example: myxo up --runtime process
    """
    part = _founding(
        psk,
        open_to_all,
        p2p_listen_addr,
        proxy_port,
        runtime,
        etcd,
        hostname,
        state_dir,
        allocator_flag,
        log_level,
    )
    run_daemon(functools.partial(run, part, ready=_print_up), log_level=log_level or "warning")


@app.command()
@refusing
def join(
    addresses: Addresses,
    psk: options.Psk = None,
    admin: options.Admin = None,
    proxy_port: ProxyPort = 4200,
    runtime: Runtime = "auto",
    hostname: options.Hostname = None,
    state_dir: options.StateDir = None,
    allocator_flag: AllocatorFlag = None,
    log_level: options.LogLevel = None,
) -> None:
    """Join a network with this machine: an allocator and a proxy until Ctrl-C.

    `myxo up` on the first machine prints the line to type.

    \b
    Example: myxo join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk abcd-efgh-2345-6789-wxyz
    """
    part = _joining(
        addresses, psk, admin, proxy_port, runtime, hostname, state_dir, allocator_flag, log_level
    )
    run_daemon(functools.partial(run, part, ready=_print_joined), log_level=log_level or "warning")


@install_app.command("up")
@refusing
def install_up(
    psk: UpPsk = None,
    open_to_all: Open = False,
    p2p_listen_addr: UpListen = ":4001",
    proxy_port: ProxyPort = 4200,
    runtime: Runtime = "auto",
    etcd: Etcd = None,
    hostname: options.Hostname = None,
    state_dir: options.StateDir = Path("/var/lib/myxo"),
    allocator_flag: AllocatorFlag = None,
    root: Root = Path("/"),
) -> None:
    """Install what `myxo up` runs.

    \b
    Example: sudo myxo install up
    """
    part = _founding(
        psk,
        open_to_all,
        p2p_listen_addr,
        proxy_port,
        runtime,
        etcd,
        hostname,
        state_dir,
        allocator_flag,
        "info",
    )
    _install(part, root)
    typer.echo(f"on the next machine:\n  {join_command(part)}")


@install_app.command("join")
@refusing
def install_join(
    addresses: Addresses,
    psk: options.Psk = None,
    admin: options.Admin = None,
    proxy_port: ProxyPort = 4200,
    runtime: Runtime = "auto",
    hostname: options.Hostname = None,
    state_dir: options.StateDir = Path("/var/lib/myxo"),
    allocator_flag: AllocatorFlag = None,
    root: Root = Path("/"),
) -> None:
    """Install what `myxo join` runs.

    \b
    Example: sudo myxo install join MULTIADDR --psk ...
    """
    part = _joining(
        addresses, psk, admin, proxy_port, runtime, hostname, state_dir, allocator_flag, "info"
    )
    _install(part, root)


@app.command()
@refusing
def status(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show peers, services, instances and RTTs as this machine sees them.

    \b
    Example: myxo status
    """
    directory = NodeSettings.load({"state_dir": state_dir}).state_dir
    print_status(trio.run(read_status, directory), as_json=as_json)


@app.command()
@refusing
def rtt(
    one: Annotated[str, typer.Argument(metavar="A", help="A host's name or a peer id.")],
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another; this machine if left out.")
    ] = None,
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in seconds.")] = False,
) -> None:
    """Show the RTT between two machines: as one of them measured it, and as estimated.

    The estimate needs no probe between the two; its error is stated with it.

    \b
    Example: myxo rtt edge-1 edge-2
    """
    directory = NodeSettings.load({"state_dir": state_dir}).state_dir
    found = trio.run(distances.read_rtt, directory, one, other)
    typer.echo(json.dumps(found) if as_json else distances.as_text(found))


@app.command()
@refusing
def watch(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show each change of a member's or an instance's state as this machine learns it.

    \b
    Example: myxo watch --json
    """
    directory = NodeSettings.load({"state_dir": state_dir}).state_dir
    trio.run(print_changes, directory, as_json)


@app.command()
@refusing
def allow(key: Annotated[str, typer.Argument(metavar="KEY", help="An owner key's id.")]) -> None:
    """Let an owner's --process services run on this machine.

    \b
    Example: myxo allow 12D3Koo...
    """
    new = keys.allow(key)
    typer.echo(f"{key} {'may now' if new else 'could already'} run processes on this machine")


@key_app.command("show")
@refusing
def key_show() -> None:
    """Print the id of this person's owner key.

    \b
    Example: myxo key show
    """
    typer.echo(keys.own_key().peer_id)


@key_app.command("export")
@refusing
def key_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the secret key.")],
) -> None:
    """Write the owner key to a file, for another machine.

    \b
    Example: myxo key export alice.key
    """
    typer.echo(f"{keys.export_key(file)} written to {file}; whoever has the file owns its names")


@key_app.command("import")
@refusing
def key_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `myxo key export` wrote.")],
) -> None:
    """Use an exported owner key on this machine.

    \b
    Example: myxo key import alice.key
    """
    typer.echo(f"this person's owner key is now {keys.import_key(file)}")


def main() -> None:
    """Run as `myxo`; a daemon's name as first word runs that daemon."""
    if len(sys.argv) > 1 and sys.argv[1] in _DAEMONS:
        module, attribute = _DAEMONS[sys.argv[1]]
        daemon = getattr(importlib.import_module(module), attribute)
        run_app(daemon, f"myxo {sys.argv[1]}", sys.argv[2:])
    run_app(app, "myxo")


def _founding(
    psk: str | None,
    open_to_all: bool,
    p2p_listen_addr: str,
    proxy_port: int,
    runtime: str,
    etcd: list[str] | None,
    hostname: str | None,
    directory: Path | None,
    allocator_flag: list[str] | None,
    log_level: str | None,
) -> Part:
    if open_to_all and psk:
        raise SettingsInvalid("--open founds without a passphrase; leave out --psk")
    return founding(
        state_dir=(directory or state_dir()).absolute(),
        psk=None if open_to_all else FirstSettings.load({"psk": psk}).psk,
        open_to_all=open_to_all,
        p2p_listen_addr=p2p_listen_addr,
        proxy_port=proxy_port,
        hostname=hostname,
        log_level=log_level or "warning",
        allocator_flags=["--runtime", runtime, *(allocator_flag or [])],
        registry_flags=[word for endpoint in etcd or [] for word in ("--etcd", endpoint)],
    )


def _joining(
    addresses: list[str],
    psk: str | None,
    admin: str | None,
    proxy_port: int,
    runtime: str,
    hostname: str | None,
    directory: Path | None,
    allocator_flag: list[str] | None,
    log_level: str | None,
) -> Part:
    return joining(
        addresses,
        state_dir=(directory or state_dir()).absolute(),
        psk=FirstSettings.load({"psk": psk}).psk,
        admin=admin,
        proxy_port=proxy_port,
        hostname=hostname,
        log_level=log_level or "warning",
        allocator_flags=["--runtime", runtime, *(allocator_flag or [])],
    )


def _install(part: Part, root: Path) -> None:
    try:
        written = install(part, root=root)
    except PermissionError as exc:
        raise MyxoError(f"{exc.filename} cannot be written; run this as root, with sudo") from exc
    for path in written:
        typer.echo(f"wrote {path}")
    if root == Path("/") and not enable(part):
        typer.echo("systemd does not run here; start the units after the next boot")


def _print_up(part: Part) -> None:
    _print_joined(part)
    typer.echo("on the next machine:")
    typer.echo(f"  {join_command(part)}")


def _print_joined(part: Part) -> None:
    typer.echo("network is up; Ctrl-C stops it")
    typer.echo(f"  services   http://127.0.0.1:{part.proxy_port}/SERVICE")
    elsewhere = "" if part.state_dir == state_dir() else f"MYXO_STATE_DIR={part.state_dir} "
    typer.echo(f"  register   {elsewhere}registry-cli add --help")
    typer.echo(f"  look       {elsewhere}myxo status")
