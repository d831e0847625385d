"""`myxo policy`: who may have what run on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from myxo import policies
from overlay import options
from overlay.cli import new_app, refusing
from overlay.settings import NodeSettings

_POLICY_HELP = """Look at this machine's policy file: who may have what run here.

Examples:

\b
  myxo policy check
  myxo policy check policy.toml --image ghcr.io/team/web:2 --owner 12D3Koo...
"""
app = new_app(_POLICY_HELP, no_args_is_help=True)


@app.callback()
def policy() -> None:
    """Hold the sub-commands together: one alone would be taken for the command itself."""


@app.command("check")
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
