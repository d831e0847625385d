"""`myxo lab`: the experiment lab's commands, each loaded when it is asked for."""

import typer

from bench.lab.parts import Parts
from bench.lab.shell.cli import shell
from overlay import options
from overlay.cli import new_app

_HELP = """Experiments: load, what it is sent to, and what came of it.

Without a command it is `myxo lab shell`, which commands load hosts.

Examples:

\b
  myxo lab host                              make this machine a load host
  myxo lab                                   the shell
  myxo lab net up --hosts 5 --preset wan     five hosts on slow links
  myxo lab load http://127.0.0.1:8080/ --profile constant:50 --duration 10s
  myxo lab trace gen -o trace.csv            a trace of requests
  myxo lab compare --policy rr,two_choices   policies on the same traces
  myxo lab report --policies rr,random hello policies on a service of this network
  myxo lab experiments submit load.json      a load, queued, run and recorded
  myxo lab api                               experiments over HTTP, and a page to draw them
"""

app = new_app(_HELP, cls=Parts)


@app.callback(invoke_without_command=True)
def lab(context: typer.Context, version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version
    if context.invoked_subcommand is None:
        shell()


def main() -> None:
    """Run as `python -m bench.lab`."""
    typer.main.get_command(app)(prog_name="myxo lab")
