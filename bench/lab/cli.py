"""`myxo lab`: the experiment lab's commands, each loaded when it is asked for."""

import typer

from bench.lab.parts import Parts
from overlay import options
from overlay.cli import new_app

_HELP = """Experiments on one machine.

Examples:

\b
  myxo lab net up --hosts 5 --preset wan     five hosts on slow links
  myxo lab load http://127.0.0.1:8080/ --profile constant:50 --duration 10s
  myxo lab trace gen -o trace.csv            a trace of requests
  myxo lab compare --policy rr,two_choices   policies on the same traces
  myxo lab report --policies rr,random hello policies on a service of this network
  myxo lab experiments submit load.json      a load, queued, run and recorded
"""

app = new_app(_HELP, no_args_is_help=True, cls=Parts)


@app.callback()
def lab(version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version


def main() -> None:
    """Run as `python -m bench.lab`."""
    typer.main.get_command(app)(prog_name="myxo lab")
