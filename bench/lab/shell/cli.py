"""`myxo lab shell`, which `myxo lab` alone is, too."""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.lab.errors import BadInput, NoSuchHost
from myxo.line_shell import Left, LineShell, at_line, interact
from overlay import options
from overlay.cli import refusing
from overlay.logs import configure_logs
from overlay.settings import chosen_state_dir

if TYPE_CHECKING:
    from bench.lab.connecting import Lab

PROMPT = "exp> "
WELCOME = "Welcome to the interactive experiment shell; help lists the commands."


@refusing
def shell(
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Use no network but a load host inside the shell.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="FILE", help="Do the commands in a file, and end."),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option("--traces", metavar="FILE", help="Write a trace of each request, as CSV."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where a --standalone host's clients ask."),
    ] = None,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
    hostname: options.Hostname = None,
    state_dir: options.StateDir = None,
    config: options.Config = None,
) -> None:
    """Command load hosts, a line each: spawn clients, have them send, see what they do.

    What is piped into it is done line by line; the first line that fails ends it with 1.

    \b
    Examples:
      myxo lab shell
      myxo lab shell --source experiment.txt --traces traces.csv
      echo "hosts" | myxo lab shell
    """
    from bench.lab.connecting import connect  # noqa: PLC0415  (slow to import, `--help` needs none)

    configure_logs("error")
    given: dict[str, Any] = {"psk": psk, "hostname": hostname, "state_dir": state_dir}
    if standalone:
        given |= {"proxy": proxy, "log_level": "error"}
    with connect(
        *(bootstrap or ()),
        standalone=standalone,
        traces=traces,
        tell=_tell,
        config=config,
        **given,
    ) as lab:
        _serve(lab, source, chosen_state_dir(state_dir) / "lab" / "history")


def _serve(lab: "Lab", source: Path | None, history: Path) -> None:
    """Do what is in a file, piped in, or typed."""
    from bench.lab.shell.shell import lab_shell  # noqa: PLC0415

    lines = lab_shell(lab.fleet, lab.fleet.route, typer.echo)
    run = partial(lab.call, lines.run)
    if source is not None:
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise BadInput(f"{source} cannot be read: {exc}") from exc
        _run_all(run, text.splitlines(), str(source))
    elif sys.stdin.isatty():
        _interact(lab, lines, run, history)
    else:
        _run_all(run, sys.stdin, "standard input")


def _run_all(run: Callable[[str], None], lines: Iterable[str], name: str) -> None:
    """Do lines up to one that fails; each is read when the one before is done."""
    with suppress(Left):
        for number, line in enumerate(lines, 1):
            with at_line(name, number):
                run(line)


def _interact(lab: "Lab", lines: LineShell, run: Callable[[str], None], history: Path) -> None:
    from bench.lab.shell.completion import completing  # noqa: PLC0415

    def hosts() -> list[str]:
        with suppress(NoSuchHost):
            return lab.hosts()
        return []

    typer.echo(WELCOME)
    with completing(lines.words, hosts, history):
        interact(run, PROMPT, partial(typer.echo, err=True))


def _tell(event: str, text: str) -> None:
    typer.echo(f"{event}: {text}", err=True)
