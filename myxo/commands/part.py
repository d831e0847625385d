"""`myxo up`, `join`, `down`, `restart` and `install`: this machine's part in a network."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

import trio
import typer

from myxo import running
from myxo.forking import fork_daemons
from myxo.install import enable, install
from myxo.network import Part, founding, join_command, joining, refuse_second, run
from myxo.restarting import restart_proxies
from overlay import options
from overlay.cli import new_app, refusing, run_daemon
from overlay.errors import MyxoError, SettingsInvalid
from overlay.passphrase import network_keys
from overlay.settings import (
    NodeSettings,
    chosen_state_dir,
    state_dir,
)

_INSTALL_HELP = """Write systemd units that keep this machine's part running over reboots.

Examples:

\b
  sudo myxo install up
  sudo myxo install join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk ...
"""
app = new_app(_INSTALL_HELP, no_args_is_help=True)
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
    _run(part, _print_up, log_level)


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
    _run(part, _print_joined, log_level)


@refusing
def down(state_dir: options.StateDir = None) -> None:
    """Stop what `myxo up` or `myxo join` runs on this machine, as Ctrl-C does in its terminal.

    Keys and definitions stay: `myxo up` starts the same network again.

    \b
    Example: myxo down
    """
    if not running.stop(chosen_state_dir(state_dir) / "run"):
        raise MyxoError(
            "neither `myxo up` nor `myxo join` runs here; what `myxo install` wrote is stopped by "
            "`systemctl stop 'myxo-*'`"
        )
    typer.echo("everything stopped")


@refusing
def restart(
    what: Annotated[str, typer.Argument(metavar="proxy", help="What to restart.")],
    port: Annotated[
        int | None, typer.Argument(metavar="[PORT]", help="The one at this port; all if left out.")
    ] = None,
    state_dir: options.StateDir = None,
) -> None:
    """Have a new process take the proxy's place without a refused or failed request.

    It is started as the old one was, so it is of the version that is installed now, and reads
    settings and certificates anew. What is under way ends in the old one.

    \b
    Example: myxo restart proxy
    """
    if what != "proxy":
        raise SettingsInvalid(f"`myxo restart proxy`: there is nothing to restart named {what!r}")
    for pid in trio.run(restart_proxies, chosen_state_dir(state_dir), port):
        typer.echo(f"process {pid} has taken over")


@app.command("up")
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


@app.command("join")
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


def _run(part: Part, ready: Callable[[Part], None], log_level: str | None) -> None:
    refuse_second(part.state_dir)
    network_keys(part.psk)  # slow to derive, and the forked have them
    forked = fork_daemons(part.daemons)
    main = functools.partial(run, part, ready=ready, forked=forked)
    run_daemon(main, log_level=log_level or "warning")


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
