"""`myxo lab net`: a host lab that stays up between commands."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from bench.netlab.errors import PlanInvalid
from bench.netlab.lab import Lab, find, found, need_root
from bench.netlab.leftovers import clean
from bench.netlab.plan import NAME, LinkSpec, make_plan, read_plan, reasons
from bench.netlab.presets import Preset
from bench.netlab.showing import print_status
from overlay.cli import new_app, refusing
from overlay.errors import SettingsInvalid
from overlay.settings import state_dir

_HELP = """Hosts on this machine, with a network between them as one wants it. Needs root.

Examples:

\b
  myxo lab net up --hosts 3 --preset wan
  myxo lab net exec h1 -- ping -c 3 h2
  myxo lab net set h1 h2 --delay-ms 100 --loss 0.05
  myxo lab net cut h3
  myxo lab net down
"""

DEFAULT_HOSTS = 3

net_app = new_app(_HELP, no_args_is_help=True)

Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Of several labs on this machine, which.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="A host's name.")]
OtherHost = Annotated[str, typer.Argument(metavar="HOST", help="Another host's name.")]
MaybeHost = Annotated[str | None, typer.Argument(metavar="[HOST]", help="A host's name.")]
MaybeOther = Annotated[str | None, typer.Argument(metavar="[HOST]", help="Another host's name.")]
OneWay = Annotated[bool, typer.Option("--one-way", help="Only from the first host to the second.")]
PlanFile = Annotated[
    Path | None,
    typer.Argument(metavar="[PLAN]", help="A TOML or JSON file; docs/netlab.md shows one."),
]
Hosts = Annotated[
    int | None, typer.Option("--hosts", metavar="N", help="How many; named h1 to hN. [default: 3]")
]
PresetName = Annotated[
    Preset | None, typer.Option("--preset", help="What the links are like. [default: none]")
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Of delays, jitter and loss. [default: 0]")
]
DelayMs = Annotated[float | None, typer.Option("--delay-ms", metavar="MS", help="One way.")]
JitterMs = Annotated[
    float | None, typer.Option("--jitter-ms", metavar="MS", help="Standard deviation of the delay.")
]
Loss = Annotated[
    float | None, typer.Option("--loss", metavar="SHARE", help="Of the packets, 0 to 1.")
]
Bandwidth = Annotated[
    float | None, typer.Option("--bandwidth-mbps", metavar="MBIT", help="10^6 bits a second.")
]
QueueMs = Annotated[
    float | None, typer.Option("--queue-ms", metavar="MS", help="Longest wait for the line.")
]
Reorder = Annotated[
    bool | None, typer.Option("--reorder/--in-order", help="Let packets overtake each other.")
]
Away = Annotated[float, typer.Option("--away-s", metavar="S", help="How long it is off.")]
Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="After `--`: the command and its flags.")
]


@net_app.command()
@refusing
def up(
    file: PlanFile = None,
    hosts: Hosts = None,
    preset: PresetName = None,
    seed: Seed = None,
    name: Name = "lab",
    as_json: Json = False,
) -> None:
    """Make a lab and leave it up.

    \b
    Example: myxo lab net up --hosts 5 --preset geo
    """
    need_root()
    given = {"hosts": hosts, "preset": preset, "seed": seed}
    said: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if file is None:
        said.setdefault("hosts", DEFAULT_HOSTS)
    lab = found(read_plan(file, **said) if file else make_plan(**said), _folder(name))
    print_status(lab.status(), as_json=as_json)


@net_app.command()
@refusing
def status(name: Name = "lab", as_json: Json = False) -> None:
    """Show hosts and links, and with --json what became of the packets on each.

    \b
    Example: myxo lab net status --json
    """
    print_status(_lab(name).status(), as_json=as_json)


@net_app.command("set")
@refusing
def set_link(
    one: HostName,
    other: OtherHost,
    one_way: OneWay = False,
    delay_ms: DelayMs = None,
    jitter_ms: JitterMs = None,
    loss: Loss = None,
    bandwidth_mbps: Bandwidth = None,
    queue_ms: QueueMs = None,
    reorder: Reorder = None,
    name: Name = "lab",
) -> None:
    """Change the link between two hosts; what is not named stays as it is.

    \b
    Example: myxo lab net set h1 h2 --delay-ms 100 --jitter-ms 5
    """
    changes = _changes(delay_ms, jitter_ms, loss, bandwidth_mbps, queue_ms, reorder)
    _lab(name).link(one, other).set(one_way=one_way, **changes)


@net_app.command()
@refusing
def cut(
    host: HostName, other: MaybeOther = None, one_way: OneWay = False, name: Name = "lab"
) -> None:
    """Pull the network cable of a host, or cut the link between two.

    \b
    Example: myxo lab net cut h3
    """
    lab = _lab(name)
    if other is None:
        lab.cut_host(host)
    else:
        lab.link(host, other).cut(one_way=one_way)


@net_app.command()
@refusing
def heal(host: MaybeHost = None, other: MaybeOther = None, name: Name = "lab") -> None:
    """Undo `cut`: of a host, of the link between two, or of all if none is named.

    \b
    Example: myxo lab net heal h3
    """
    _lab(name).heal(*(h for h in (host, other) if h is not None))


@net_app.command()
@refusing
def reboot(host: HostName, away_s: Away = 0.0, name: Name = "lab") -> None:
    """Pull a host's plug and put it back; what ran on it is gone, what it stored is not.

    \b
    Example: myxo lab net reboot h2 --away-s 5
    """
    _lab(name).host(host).reboot(away_s=away_s)


@net_app.command("exec")
@refusing
def execute(host: HostName, command: Command, name: Name = "lab") -> None:
    """Run a command on a host; its exit code is this one's.

    \b
    Example: myxo lab net exec h1 -- ping -c 3 h2
    """
    _become(name, host, command)


@net_app.command()
@refusing
def shell(host: HostName, name: Name = "lab") -> None:
    """Open a shell on a host.

    \b
    Example: myxo lab net shell h1
    """
    _become(name, host, [os.environ.get("SHELL", "/bin/sh")])


@net_app.command()
@refusing
def down(name: Name = "lab") -> None:
    """End a lab with everything that runs in it, and remove what its hosts stored.

    \b
    Example: myxo lab net down
    """
    _lab(name).close()


@net_app.command("clean")
@refusing
def clean_up() -> None:
    """Remove what labs left that were killed; labs that are up are left alone.

    \b
    Example: myxo lab net clean
    """
    need_root()
    labs = state_dir() / "lab"
    for line in clean(labs.iterdir() if labs.exists() else ()):
        typer.echo(f"removed {line}")


def _lab(name: str) -> Lab:
    need_root()
    return find(_folder(name))


def _folder(name: str) -> Path:
    if not re.fullmatch(NAME, name):
        raise SettingsInvalid(f"--name {name!r}: use up to 31 of a-z 0-9 - and begin with a letter")
    return state_dir() / "lab" / name


def _changes(
    delay_ms: float | None,
    jitter_ms: float | None,
    loss: float | None,
    bandwidth_mbps: float | None,
    queue_ms: float | None,
    reorder: bool | None,
) -> dict[str, Any]:
    try:
        changes = LinkSpec(
            delay_ms=delay_ms,
            jitter_ms=jitter_ms,
            loss=loss,
            bandwidth_mbps=bandwidth_mbps,
            queue_ms=queue_ms,
            reorder=reorder,
        ).fields()
    except ValidationError as exc:
        raise PlanInvalid(f"the link cannot be so: {reasons(exc)}") from exc
    if not changes:
        raise SettingsInvalid("nothing to change is named; such as --delay-ms 50")
    return changes


def _become(name: str, host_name: str, command: list[str]) -> None:
    """Let this process become the command, so that its terminal and exit code are plain."""
    host = _lab(name).host(host_name)
    words = [*host.prefix(), *command]
    os.execvpe(words[0], words, host.environment)  # noqa: S606  (no shell is wanted)
