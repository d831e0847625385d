"""`myxo key` and `allow`: owner keys, and whose processes may run here."""

from pathlib import Path
from typing import Annotated

import typer

from myxo import keys
from overlay.cli import new_app, refusing

_KEY_HELP = """Show, export or import this person's owner key, which names belong to.

Examples:

\b
  myxo key show
  myxo key export alice.key     here; then, on the other machine:
  myxo key import alice.key
"""
app = new_app(_KEY_HELP, no_args_is_help=True)


@refusing
def allow(key: Annotated[str, typer.Argument(metavar="KEY", help="An owner key's id.")]) -> None:
    """Let an owner's --process services run on this machine.

    \b
    Example: myxo allow 12D3Koo...
    """
    new = keys.allow(key)
    typer.echo(f"{key} {'may now' if new else 'could already'} run processes on this machine")


@app.command("show")
@refusing
def key_show() -> None:
    """Print the id of this person's owner key.

    \b
    Example: myxo key show
    """
    typer.echo(keys.own_key().peer_id)


@app.command("export")
@refusing
def key_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the secret key.")],
) -> None:
    """Write the owner key to a file, for another machine.

    \b
    Example: myxo key export alice.key
    """
    typer.echo(f"{keys.export_key(file)} written to {file}; whoever has the file owns its names")


@app.command("import")
@refusing
def key_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `myxo key export` wrote.")],
) -> None:
    """Use an exported owner key on this machine.

    \b
    Example: myxo key import alice.key
    """
    typer.echo(f"this person's owner key is now {keys.import_key(file)}")
