"""`myxo ban`, `unban`, `bans` and `psk`: who is kept out of the network."""

import functools
from typing import Annotated

import trio
import typer

from myxo import banning, rotating
from myxo.commands.part import FirstSettings
from myxo.network import join_words
from overlay import options
from overlay.cli import new_app, refusing
from overlay.rotation import GRACE_S
from overlay.settings import (
    SYSTEM_STATE_DIR,
    chosen_state_dir,
    read_joined_network,
)

_PSK_HELP = """Give the network another passphrase while it goes on working.

Examples:

\b
  myxo psk rotate
  myxo psk rotate --grace 0     the old one leaked: machines that are off must join anew
"""
app = new_app(_PSK_HELP, no_args_is_help=True)


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
    _print_outcome(trio.run(banned, chosen_state_dir(state_dir), who), "")


@refusing
def unban(
    who: Annotated[str, typer.Argument(metavar="PEER|HOST", help="As `myxo bans` shows it.")],
    state_dir: options.StateDir = None,
) -> None:
    """Let a peer that was banned, or all peers of a host, come back. For the network's admin.

    \b
    Example: myxo unban laptop
    """
    _print_outcome(trio.run(banning.unban, chosen_state_dir(state_dir), who), "no longer ")


@refusing
def bans(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who is banned from the network, and since when.

    \b
    Example: myxo bans
    """
    banning.print_bans(trio.run(banning.read_bans, chosen_state_dir(state_dir)), as_json=as_json)


@app.command("rotate")
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
    directory = chosen_state_dir(state_dir)
    passphrase = trio.run(rotating.rotate, directory, wish, typer.echo)
    typer.echo(f"the passphrase is now {passphrase}")
    joined = read_joined_network(directory) or read_joined_network(SYSTEM_STATE_DIR)
    if joined.get("bootstraps"):
        words = join_words(joined["bootstraps"][0], passphrase, joined.get("admin"))
        typer.echo(f"on the next machine:\n  {words}")
    if FirstSettings.load({}).psk not in {None, passphrase}:
        typer.echo("P2P_PSK, MYXO_PSK or the settings file names another one here: change it there")


def _print_outcome(outcome: banning.Outcome, no_longer: str) -> None:
    for target in outcome.targets:
        typer.echo(f"{no_longer}banned: {target}")
    typer.echo(f"{outcome.told} peers know, and tell every other one that they meet")
    for trouble in outcome.troubles:
        typer.echo(f"  not told: {trouble}")
