"""`myxo lab`: the experiment lab's commands, each loaded when it is asked for."""

import typer

from bench.netlab.cli import net_app
from overlay import options
from overlay.cli import new_app

_HELP = """Experiments on one machine.

Examples:

\b
  myxo lab net up --hosts 5 --preset wan     five hosts on slow links
"""

app = new_app(_HELP, no_args_is_help=True)
app.add_typer(net_app, name="net")


@app.callback()
def lab(version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version


def main() -> None:
    """Run as `python -m bench.lab`."""
    typer.main.get_command(app)(prog_name="myxo lab")
