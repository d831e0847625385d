"""The `myxo` command: a network on this machine, its state, and the daemons as sub-commands."""

import functools
import importlib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, ClassVar

import trio
import typer

from myxo import banning, distances, keys, policies, rotating, rtable_cli, running
from myxo import forward as forwarding
from myxo.install import enable, install
from myxo.network import Part, founding, join_command, join_words, joining, run
from myxo.status import print_status, read_status
from myxo.watching import print_changes
from myxo.why import as_text, read_why
from overlay import options
from overlay.cli import new_app, refusing, run_app, run_daemon
from overlay.errors import MyxoError, SettingsInvalid
from overlay.rotation import GRACE_S
from overlay.settings import SYSTEM_STATE_DIR, NodeSettings, read_joined_network, state_dir
from proxy.layer4.forward_orders import Forwarded

_DAEMONS = {
    "bootstrap": ("bootstrap.cli", "app"),
    "ping-monitor": ("bootstrap.cli", "app"),
    "allocator": ("allocator.cli", "app"),
    "registry-service": ("registry.cli", "service_app"),
    "registry-cli": ("registry.cli", "cli_app"),
    "proxy": ("proxy.cli", "app"),
}
"""Loaded only when asked for: each brings libraries that the others do not need."""

EXTENSIONS = "myxo.commands"
"""Entry points of this group are sub-commands: a typer application each."""

_HELP = f"""Ask any machine for a service by name; if none runs, one is started, in that request.

Examples:

\b
  myxo up                                  found a network on this machine
  myxo join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk ...     on the next machine
  curl 127.0.0.1:4200/hello-world-server

The daemons are sub-commands too: {", ".join(_DAEMONS)}. Others come from packages that stand on
this one, such as `myxo lab`.
"""

_KEY_HELP = """Show, export or import this person's owner key, which names belong to.

Examples:

\b
  myxo key show
  myxo key export alice.key     here; then, on the other machine:
  myxo key import alice.key
"""

_PSK_HELP = """Give the network another passphrase while it goes on working.

Examples:

\b
  myxo psk rotate
  myxo psk rotate --grace 0     the old one leaked: machines that are off must join anew
"""

_POLICY_HELP = """Look at this machine's policy file: who may have what run here.

Examples:

\b
  myxo policy check
  myxo policy check policy.toml --image ghcr.io/team/web:2 --owner 12D3Koo...
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
psk_app = new_app(_PSK_HELP, no_args_is_help=True)
policy_app = new_app(_POLICY_HELP, no_args_is_help=True)
app.add_typer(key_app, name="key")
app.add_typer(policy_app, name="policy")
app.add_typer(psk_app, name="psk")
app.add_typer(install_app, name="install")
app.add_typer(rtable_cli.app, name="rtable")

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


@app.command()
@refusing
def down(state_dir: options.StateDir = None) -> None:
    """Stop what `myxo up` or `myxo join` runs on this machine, as Ctrl-C does in its terminal.

    Keys and definitions stay: `myxo up` starts the same network again.

    \b
    Example: myxo down
    """
    if not running.stop(_state_dir(state_dir) / "run"):
        raise MyxoError(
            "neither `myxo up` nor `myxo join` runs here; what `myxo install` wrote is stopped by "
            "`systemctl stop 'myxo-*'`"
        )
    typer.echo("everything stopped")


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
    print_status(trio.run(read_status, _state_dir(state_dir)), as_json=as_json)


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
def why(
    about: Annotated[
        str,
        typer.Argument(
            metavar="[REQUEST_ID | SERVICE]", help="All of the last requests if left out."
        ),
    ] = "",
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in seconds.")] = False,
) -> None:
    """Show how this machine's proxy decided a request, and what it would decide now.

    Which instances and machines there were, what each would have cost, what was refused and why,
    what was chosen, and where the time went. A request has the id that it came with as
    X-Request-Id, or one that its answer tells if it asks for it with X-Myxo-Explain: 1.

    \b
    Examples:
      myxo why                       the last requests, a line each
      myxo why hello-world-server    its last requests, and what would happen now
    """
    directory = NodeSettings.load({"state_dir": state_dir}).state_dir
    answers = trio.run(read_why, directory, about)
    typer.echo(json.dumps(answers) if as_json else as_text(answers, about))


@app.command("forward")
@refusing
def forward_(
    to: Annotated[
        str,
        typer.Argument(metavar="[SERVICE | CHAIN]", help="Where the port leads to."),
    ] = "",
    port: Annotated[
        int,
        typer.Argument(
            metavar="[LOCALPORT]",
            help="The local port; any free one if left out.",
            min=0,
            max=65535,
        ),
    ] = 0,
    host: Annotated[
        str, typer.Option("--host", metavar="IP", help="Listen there instead of on loopback.")
    ] = "127.0.0.1",
    keep: Annotated[
        bool, typer.Option("--keep", help="Return, and go on until removed or the proxy ends.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show what is forwarded.")] = False,
    remove: Annotated[
        int | None, typer.Option("--remove", metavar="PORT", help="Forward PORT no more.")
    ] = None,
    proxy_port: Annotated[
        int | None,
        typer.Option("--proxy-port", metavar="PORT", help="Which of this machine's proxies."),
    ] = None,
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Open a local port that leads to a service, or to a chain of them, until Ctrl-C.

    Each connection, or each client's datagrams, go to the nearest instance with room; if there is
    none, one is started. They are carried as they are, whatever protocol they speak.

    \b
    Examples:
      myxo forward postgres 5432          then: psql -h 127.0.0.1
      myxo forward postgres 5432 --keep   the same, without a terminal
      myxo forward tcp/decode/udp/filter/mix 7000
                                          what decode says goes to filter, and so on
      myxo forward --list
      myxo forward --remove 5432
    """
    directory = NodeSettings.load({"state_dir": state_dir}).state_dir
    if remove is not None:
        shown = trio.run(forwarding.remove, directory, remove)
    elif show:
        shown = trio.run(forwarding.forwards, directory)
    else:
        order = forwarding.order(to, host, port, keep=keep)
        echo = functools.partial(_print_forward, as_json=as_json)
        warn = functools.partial(typer.echo, err=True)
        trio.run(forwarding.forward, directory, order, proxy_port, echo, warn)
        return
    for one in shown:
        _print_forward(one, as_json=as_json)


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


@policy_app.callback()
def policy() -> None:
    """Hold the sub-commands together: one alone would be taken for the command itself."""


@policy_app.command("check")
@refusing
def policy_check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The one that allocators take if left out."),
    ] = None,
    image: Annotated[
        str, typer.Option("--image", metavar="NAME", help="May this image run? Or sha256:…")
    ] = "",
    process: Annotated[bool, typer.Option("--process", help="May a process run?")] = False,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="KEY", help="Of this owner key.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option("--peer", metavar="ID", help="When this peer asks.")
    ] = None,
    cpu: Annotated[int, typer.Option("--cpu", metavar="N", help="With this CpuReq.")] = 0,
    memory: Annotated[int, typer.Option("--memory", metavar="N", help="And MemoryReq.")] = 0,
    open_network: Annotated[
        bool, typer.Option("--open", help="In a network without a passphrase.")
    ] = False,
    admin: options.Admin = None,
) -> None:
    """Say whether a policy file is right, and what it decides on one service.

    \b
    Example: myxo policy check policy.toml --image nginx:1.27 --memory 256
    """
    rules = policies.read_rules(file)
    if not (image or process):
        policies.print_rules(rules, typer.echo)
        return
    network_admin = NodeSettings.load({"admin": admin}).admin
    question = policies.Question(image, owner, peer, cpu, memory, open_network)
    verdict = policies.check(file, network_admin, question)
    typer.echo(str(verdict))
    if not verdict.allowed:
        raise typer.Exit(1)


@app.command()
@refusing
def ban(
    who: Annotated[str, typer.Argument(metavar="PEER|HOST", help="A peer id, its end, or a host.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even if it is a daemon of this machine.")
    ] = False,
    state_dir: options.StateDir = None,
) -> None:
    """Shut a peer, or all peers of a host, out of the network. For the network's admin.

    Every machine cuts it off at once, and keeps it out until `myxo unban`. Whoever has the
    passphrase can come back as another peer: `myxo psk rotate` prevents that.

    \b
    Example: myxo ban laptop
    """
    banned = functools.partial(banning.ban, force=force)
    _print_outcome(trio.run(banned, _state_dir(state_dir), who), "")


@app.command()
@refusing
def unban(
    who: Annotated[str, typer.Argument(metavar="PEER|HOST", help="As `myxo bans` shows it.")],
    state_dir: options.StateDir = None,
) -> None:
    """Let a peer that was banned, or all peers of a host, come back. For the network's admin.

    \b
    Example: myxo unban laptop
    """
    _print_outcome(trio.run(banning.unban, _state_dir(state_dir), who), "no longer ")


@app.command()
@refusing
def bans(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who is banned from the network, and since when.

    \b
    Example: myxo bans
    """
    banning.print_bans(trio.run(banning.read_bans, _state_dir(state_dir)), as_json=as_json)


@psk_app.command("rotate")
@refusing
def psk_rotate(
    psk: Annotated[
        str | None,
        typer.Option("--psk", metavar="NEW", help="The new passphrase; one is made if not given."),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="HOURS",
            help="How long a machine that is off now may still come back under the old one.",
        ),
    ] = GRACE_S / 3600,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the last change; begin no new one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Leave behind the peers that refuse.")
    ] = False,
    state_dir: options.StateDir = None,
) -> None:
    """Change the network's passphrase on every machine. For the network's admin.

    Services go on meanwhile. Who has only the old passphrase, and was no member or is banned, is
    shut out. If it is interrupted, run it again.

    \b
    Example: myxo psk rotate
    """
    wish = rotating.Wish(psk, grace * 3600, resume=resume, force=force)
    directory = _state_dir(state_dir)
    passphrase = trio.run(rotating.rotate, directory, wish, typer.echo)
    typer.echo(f"the passphrase is now {passphrase}")
    joined = read_joined_network(directory) or read_joined_network(SYSTEM_STATE_DIR)
    if joined.get("bootstraps"):
        words = join_words(joined["bootstraps"][0], passphrase, joined.get("admin"))
        typer.echo(f"on the next machine:\n  {words}")
    if FirstSettings.load({}).psk not in {None, passphrase}:
        typer.echo("P2P_PSK, MYXO_PSK or the settings file names another one here: change it there")


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
    """Run as `myxo`; a first word that names a daemon or an extension runs that."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in _DAEMONS:
        module, attribute = _DAEMONS[name]
        run_app(getattr(importlib.import_module(module), attribute), f"myxo {name}", arguments)
    for extension in _extensions(name):
        run_app(extension.load(), f"myxo {name}", arguments)
    run_app(app, "myxo")


def _extensions(name: str) -> Iterable[EntryPoint]:
    """Return the command `name` of a package that stands on this one, if there is such a command.

    Looked for only if the word is no command of this package and no flag: it takes a reading of
    what is installed.
    """
    known = {
        command.name or getattr(command.callback, "__name__", "")
        for command in app.registered_commands
    }
    known |= {group.name for group in app.registered_groups}
    if not name or name.startswith("-") or name in known:
        return ()
    return entry_points(group=EXTENSIONS, name=name)


def _state_dir(given: Path | None) -> Path:
    return NodeSettings.load({"state_dir": given}).state_dir


def _print_outcome(outcome: banning.Outcome, no_longer: str) -> None:
    for target in outcome.targets:
        typer.echo(f"{no_longer}banned: {target}")
    typer.echo(f"{outcome.told} peers know, and tell every other one that they meet")
    for trouble in outcome.troubles:
        typer.echo(f"  not told: {trouble}")


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


def _print_forward(forward: Forwarded, *, as_json: bool) -> None:
    text = f"{forward.listen} -> {forward.to}"
    typer.echo(forward.model_dump_json() if as_json else text)
    sys.stdout.flush()


def _print_joined(part: Part) -> None:
    typer.echo("network is up; Ctrl-C stops it")
    typer.echo(f"  services   http://127.0.0.1:{part.proxy_port}/SERVICE")
    elsewhere = "" if part.state_dir == state_dir() else f"MYXO_STATE_DIR={part.state_dir} "
    typer.echo(f"  register   {elsewhere}registry-cli add --help")
    typer.echo(f"  look       {elsewhere}myxo status")
