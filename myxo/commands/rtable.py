"""`myxo rtable`: the routing table, a command at a time or in a shell."""

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import trio
import typer

from myxo.line_shell import Left, LineShell, interact
from myxo.rtable import as_text, ask_proxies, command, follow_proxies, update_line
from myxo.rtable_shell import routing_shell
from overlay import options
from overlay.cli import new_app, refusing
from overlay.settings import chosen_state_dir

PROMPT = "rtbl> "

_HELP = """Say where this machine's requests for a service go, whatever the network knows of it.

Without a command it is a shell that reads commands; `help` in it lists them, and what is piped into
it is done line by line. The table is the proxy's on this machine, and is kept over restarts.

Examples:

\b
  myxo rtable set squeezenet heisenberg:8080,einstein:8080 1,2
  myxo rtable                    the shell
  myxo rtable < routes.txt       a command a line
"""

app = new_app(_HELP)

Proxy = Annotated[
    int | None,
    typer.Option("--proxy", metavar="PORT", help="Of this proxy only; else all of this machine."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Service = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Its name; it need not be registered.")
]


@app.callback(invoke_without_command=True)
@refusing
def rtable(context: typer.Context, proxy: Proxy = None, state_dir: options.StateDir = None) -> None:
    """Read commands, unless one is given."""
    directory = chosen_state_dir(state_dir)
    context.obj = (directory, proxy)
    if context.invoked_subcommand is None:
        shell = _shell(context)
        if sys.stdin.isatty():
            _interact(shell)
        else:
            _run_to_end(shell.run_all, sys.stdin, "standard input")


@app.command("set")
@refusing
def set_(
    context: typer.Context,
    service: Service,
    hosts: Annotated[str, typer.Argument(metavar="HOST:PORT,...", help="The targets.")],
    weights: Annotated[
        str | None, typer.Argument(metavar="[WEIGHT,...]", help="Equal if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send requests for a service to these hosts, from the next one on.

    \b
    Example: myxo rtable set squeezenet heisenberg:8080,einstein:8080 1,2.5
    """
    _do(context, "set", [service, hosts, *([] if weights is None else [weights])], as_json)


@app.command()
@refusing
def unset(context: typer.Context, service: Service, as_json: Json = False) -> None:
    """Let the network decide again where requests for a service go.

    \b
    Example: myxo rtable unset squeezenet
    """
    _do(context, "unset", [service], as_json)


@app.command()
@refusing
def clear(context: typer.Context, as_json: Json = False) -> None:
    """Unset all services.

    \b
    Example: myxo rtable clear
    """
    _do(context, "clear", [], as_json)


@app.command("list")
@refusing
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Show all services, hosts and weights.

    \b
    Example: myxo rtable list --json
    """
    _do(context, "list", [], as_json)


@app.command()
@refusing
def updates(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", help="Show new ones until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the changes of the table.

    \b
    Example: myxo rtable updates --follow
    """
    if follow:
        directory, proxy = context.obj

        def show(update: Any) -> None:
            typer.echo(json.dumps(update) if as_json else update_line(update))

        _until_interrupted(follow_proxies(directory, proxy, show))
    else:
        _do(context, "updates", [], as_json)


@app.command()
@refusing
def flush(context: typer.Context, as_json: Json = False) -> None:
    """Forget the changes that `updates` shows; the table stays.

    \b
    Example: myxo rtable flush
    """
    _do(context, "flush", [], as_json)


@app.command()
@refusing
def info(context: typer.Context, as_json: Json = False) -> None:
    """Show which proxies the commands go to.

    \b
    Example: myxo rtable info
    """
    _do(context, "info", [], as_json)


@app.command()
@refusing
def source(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A command a line; # is a comment.")],
) -> None:
    """Do the commands in a file, up to one that fails.

    \b
    Example: myxo rtable source routes.txt
    """
    _run_to_end(_shell(context).run, f"source {file}")


def _do(context: typer.Context, name: str, given: list[str], as_json: bool) -> None:
    directory, proxy = context.obj
    answers = trio.run(ask_proxies(directory, proxy), command(name, given))
    lines = list(as_text(name, answers))
    if as_json:
        typer.echo(json.dumps(answers))
    else:
        for line in lines:
            typer.echo(line)


def _shell(context: typer.Context) -> LineShell:
    directory, proxy = context.obj
    follow = follow_proxies(directory, proxy, lambda update: typer.echo(update_line(update)))
    return routing_shell(ask_proxies(directory, proxy), follow, typer.echo)


def _run_to_end(run: Callable[..., Awaitable[None]], *given: Any) -> None:
    """Do lines until one says `exit`."""
    with suppress(Left):
        trio.run(run, *given)


def _until_interrupted(run: Callable[..., Awaitable[None]], *given: Any) -> None:
    try:
        trio.run(run, *given)
    except* KeyboardInterrupt:
        pass


def _interact(shell: LineShell) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415  (where there is one, it gives `input` a history)
    typer.echo("Routing table of this machine's proxy; help lists the commands.")
    interact(partial(_until_interrupted, shell.run), PROMPT, partial(typer.echo, err=True))
