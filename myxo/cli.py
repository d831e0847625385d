"""The `myxo` command: its sub-commands, the daemons among them, and what other packages add."""

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from myxo.commands import forward, looking, membership, owners, part, policy, rtable, serve
from myxo.daemons import DAEMONS, run_command
from overlay import options
from overlay.cli import new_app, run_app

EXTENSIONS = "myxo.commands"
"""Entry points of this group are sub-commands: a typer application each."""

_HELP = f"""Ask any machine for a service by name; if none runs, one is started, in that request.

Examples:

\b
  myxo up                                  found a network on this machine
  myxo join /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo... --psk ...     on the next machine
  curl 127.0.0.1:4200/hello-world-server

The daemons are sub-commands too: {", ".join(DAEMONS)}. Others come from packages that stand on
this one, such as `myxo lab`.
"""
app = new_app(_HELP, no_args_is_help=True)
for command in (
    part.up,
    part.join,
    part.down,
    part.restart,
    looking.status,
    looking.rtt,
    looking.why,
    forward.forward,
    serve.serve,
    looking.watch,
    owners.allow,
    membership.ban,
    membership.unban,
    membership.bans,
):
    app.command()(command)
for name, group in (
    ("key", owners.app),
    ("policy", policy.app),
    ("psk", membership.app),
    ("install", part.app),
    ("rtable", rtable.app),
):
    app.add_typer(group, name=name)


@app.callback()
def myxo(version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version


def main() -> None:
    """Run as `myxo`; a first word that names a daemon or an extension runs that."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in DAEMONS:
        run_command(name, arguments)
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
